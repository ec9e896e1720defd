"""Seeded fuzzing: whatever comes in is accepted with the right result, or refused by a documented error, in time.

A few seconds for all in the default tier; `--fuzz N` makes N cases of each kind.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import sqlite3
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.attacks.attack import Attacker
from puregen_transforms.attacks.pickles import read_pickle
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.images import LARGEST_LOOKED_AT, ImageProblemError, decode, look_at
from puregen_transforms.data.sources import open_tables
from puregen_transforms.evaluate.report import read_record, write_report
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.whole_sets.verify import problems_of

LONGEST = 20.0
"""Seconds for one case, on a busy machine."""

DOCUMENTED = (ValueError, OSError, FloatingPointError)
"""What the functions below say that they raise; commands print it as one line."""

ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    10**12,
    1e38,
    float("nan"),
    "",
    "x",
    "../x",
    "/dev/zero",
    "\x1b[2J",
    "\ud800",
    [],
    {},
    [[]],
)


@contextmanager
def in_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LONGEST


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes, cut the end off, repeat a piece, or write another number into four bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed)) if changed else 0
        match chance.randrange(5):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del changed[place:]
            case 2:
                changed[place:place] = changed[place : place + chance.randint(1, 64)]
            case 3:
                number = chance.choice((0, 1, 2**31 - 1, 2**32 - 1, chance.randrange(2**32)))
                changed[place : place + 4] = struct.pack(chance.choice("<>") + "I", number)
            case _:
                del changed[place : place + chance.randint(1, 16)]
    return bytes(changed)


def changed_json(values: object, chance: random.Random) -> object:
    """Put something odd in the place of one value, or take it away, anywhere in nested JSON."""
    copied = json.loads(json.dumps(values))
    places: list[tuple[object, object]] = []

    def collect(value: object) -> None:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            collect(value[key])  # type: ignore[index]

    collect(copied)
    holder, key = chance.choice(places)
    if chance.random() < 0.2:
        del holder[key]  # type: ignore[attr-defined]
    else:
        holder[key] = chance.choice(ODD)  # type: ignore[index]
    return copied


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Callable[[int], Iterator[random.Random]]:
    """Give a generator of chance for each case: so many by default, or as many as `--fuzz` says."""
    asked = request.config.getoption("--fuzz")

    def generators(count: int) -> Iterator[random.Random]:
        for number in range(asked or count):
            yield random.Random(f"{request.node.name} {number}")

    return generators


def test_images(cases):
    pictures = []
    for image_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA"):
        Image.effect_noise((24, 20), 60).convert("RGB").save(file := io.BytesIO(), image_format)
        pictures.append(file.getvalue())
    for chance in cases(400):
        data = mutated(chance.choice(pictures), chance)
        for read in (decode, look_at):
            with in_time():
                try:
                    image = read(data)
                except ImageProblemError:
                    continue
            assert 0 < image.width * image.height <= LARGEST_LOOKED_AT
            image.convert("RGB")


def copy_with(folder: Path, target: Path, name: str, data: bytes) -> Path:
    """Copy a folder, with another content of one of its files."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    (target / name).write_bytes(data)
    return target


def test_energy_checkpoints(cases, tiny_checkpoint, tmp_path):
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    header = 8 + struct.unpack("<Q", weights[:8])[0]
    for chance in cases(60):
        if chance.random() < 0.5:
            data = mutated(weights[:header], chance) + weights[header:]
            folder = copy_with(tiny_checkpoint, tmp_path / "a", "model.safetensors", data)
        else:
            data = json.dumps(changed_json(config, chance)).encode()
            folder = copy_with(tiny_checkpoint, tmp_path / "a", "config.json", data)
        with in_time(), quiet():
            try:
                network = load_ebm(resolve_ebm(folder))
            except DOCUMENTED:
                continue
        assert bool(network(torch.zeros(1, 3, 32, 32)).isfinite().all())


def test_configurations_of_noise_predictors(cases, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=32, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "usual")
    files = ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json")
    images = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    for chance in cases(40):
        name = chance.choice(files)
        data = json.dumps(changed_json(json.loads((tmp_path / "usual" / name).read_text()), chance)).encode()
        folder = copy_with(tmp_path / "usual", tmp_path / "a", name, data)
        with in_time(), quiet():
            try:
                load_unet(resolve_ddpm(folder))
                purified = PureGen("ddpm", ddpm_checkpoint=folder, ddpm_steps=1, seed=0, device="cpu")(images)
            except DOCUMENTED:
                continue
        assert purified.shape == images.shape


@pytest.fixture
def image_set():
    pixels = torch.randint(0, 255, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(40) % 2, ("a", "b"))


def test_poisons(cases, image_set, tmp_path):
    attack = ATTACKS["badnets"]
    attack.craft(image_set, attack.config(target_class=0, rate=0.2), Attacker(seed=0)).save(tmp_path / "usual")
    whole = Poison.load(tmp_path / "usual")
    about = json.loads((tmp_path / "usual/poison.json").read_text())
    tensors = (tmp_path / "usual/poison.safetensors").read_bytes()
    for chance in cases(150):
        if chance.random() < 0.5:
            data = json.dumps(changed_json(about, chance)).encode()
            folder = copy_with(tmp_path / "usual", tmp_path / "a", "poison.json", data)
        else:
            data = mutated(tensors, chance)
            folder = copy_with(tmp_path / "usual", tmp_path / "a", "poison.safetensors", data)
            fitting = {**about, "tensors_sha256": hashlib.sha256(data).hexdigest()}
            (folder / "poison.json").write_text(json.dumps(fitting))
        with in_time():
            try:
                poison = Poison.load(folder)
                images, labels = poison.apply_to_tensors(image_set.images, image_set.labels)
                repr(poison), poison.digest
            except DOCUMENTED:
                continue
            with suppress(ValueError):
                poison.trigger_test_set(image_set.images, image_set.labels)
        assert images.shape == image_set.images.shape
        assert 0 <= int(labels.min()) <= int(labels.max()) < max(2, len(poison.class_names))
        untouched = torch.ones(40, dtype=torch.bool)
        untouched[poison.ids] = False
        assert torch.equal(images[untouched], image_set.images[untouched])
        assert len(poison) <= whole.set_rows


def test_pickles(cases, tmp_path):
    values = [Image.new("RGB", (8, 8), "red"), np.arange(6).reshape(2, 3), np.float32(1), [1, "a", (2.0, b"x")]]
    content = [pickle.dumps(values, protocol) for protocol in (2, 3, 4)]
    for chance in cases(400):
        (tmp_path / "a.pickle").write_bytes(mutated(chance.choice(content), chance))
        with in_time():
            try:
                found = read_pickle(tmp_path / "a.pickle")
            except ValueError:
                continue
        assert is_plain(found)


def is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value is None or isinstance(value, (bool, int, float, str, bytes, Image.Image))


@pytest.fixture
def copy(tmp_path):
    (tmp_path / "in/c").mkdir(parents=True)
    for row in range(3):
        Image.new("RGB", (16, 16), (60 * row, 9, 9)).save(tmp_path / f"in/c/{row}.png")
    (tmp_path / "in/c/bad.png").write_bytes(b"no image")
    (tmp_path / "in/notes.txt").write_text("x")
    purify_dataset(tmp_path / "in", PureGen("jpeg", seed=0), output_dir=tmp_path / "out", on_error="skip", part_rows=2)
    return tmp_path / "out"


def test_every_changed_byte_of_a_copy_is_noticed(cases, copy, tmp_path):
    files = sorted(path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file())
    assert list(problems_of(copy)) == []
    contents = {name: (copy / name).read_bytes() for name in files}
    for chance in cases(150):
        name = chance.choice(files)
        data = bytearray(contents[name])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (copy / name).write_bytes(data)
        with in_time(), suppress(ValueError):
            assert list(problems_of(copy)), name
        (copy / name).write_bytes(contents[name])
    assert list(problems_of(copy)) == []


def test_manifests(cases, copy):
    manifest = copy / "purified.jsonl"
    lines = manifest.read_text().splitlines()
    for chance in cases(150):
        place = chance.randrange(len(lines))
        changed = json.dumps(changed_json(json.loads(lines[place]), chance))
        manifest.write_text("\n".join([*lines[:place], changed, *lines[place + 1 :]]) + "\n")
        if manifest.read_text().splitlines() == lines:
            continue
        with in_time(), suppress(ValueError):
            assert list(problems_of(copy))


def test_saved_sets(cases, tmp_path):
    features = Features(image=ImageFeature(), label=Value("string"))
    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "PNG")
    cells = [{"bytes": file.getvalue(), "path": None}] * 3
    Dataset.from_dict({"image": cells, "label": ["a", "b", "c"]}, features=features).save_to_disk(tmp_path / "usual")
    for chance in cases(40):
        path = chance.choice(sorted((tmp_path / "usual").iterdir()))
        if path.suffix == ".json":
            data = json.dumps(changed_json(json.loads(path.read_text()), chance)).encode()
        else:
            data = mutated(path.read_bytes(), chance)
        folder = copy_with(tmp_path / "usual", tmp_path / "a", path.name, data)
        with in_time():
            try:
                for split in open_tables(str(folder)).values():
                    for table in split.batches(2, 0, split.rows):
                        table.to_pylist()
            except (*DOCUMENTED, pa.ArrowException):
                continue


def test_caches(cases, tmp_path):
    images = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    right = PureGen("jpeg", seed=0, cache=tmp_path / "usual")(images)
    with closing(sqlite3.connect(tmp_path / "usual/purified.sqlite")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = (tmp_path / "usual/purified.sqlite").read_bytes()
    for chance in cases(60):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        (tmp_path / "a").mkdir()
        changed = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        (tmp_path / "a/purified.sqlite").write_bytes(changed)
        with in_time():
            try:
                found = PureGen("jpeg", seed=0, cache=tmp_path / "a")(images)
            except OSError:
                continue
        assert torch.equal(found, right)


def test_reports(cases, tmp_path):
    victim = {"classifier": "small", "recipe": "fast", "epochs": 1, "scenario": "scratch", "transfer_epochs": None}
    poison = {"digest": "0", "poisoned_rows": 1, "cover_rows": 0, "set_rows": 9}
    attack = {"name": "badnets", "group": "badnets"}
    outcome = {"accuracy": 0.5, "success": 0.5, "success_never_poisoned": 0.1, "poison": poison}
    cell = {"cell": {"attack": attack, "defense": {"name": "none"}, "victim": victim, "seed": 0}, **outcome}
    words = {"title": "T", "command": "c", "preset": "cpu", "machine": "m", "images": "i"}
    record = {"name": "a", **words, "cells": [cell]}
    for chance in cases(8):
        (tmp_path / "record.json").write_text(json.dumps(changed_json(record, chance)))
        with in_time():
            try:
                write_report([read_record(tmp_path / "record.json")], tmp_path / "out")
            except DOCUMENTED:
                continue
        assert "\x1b" not in (tmp_path / "out/report.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) in (["out", "record.json"], ["record.json"])


def test_calls(cases):
    purify = PureGen("jpeg", seed=0)
    image, _tensor = Image.new("RGB", (8, 8), "red"), torch.zeros(3, 8, 8)

    def sample(chance: random.Random, depth: int = 0) -> object:
        kind = chance.randrange(9)
        if depth > 3 or kind < 3:
            return chance.choice(
                (image, 1, "x", None, torch.zeros(3, 8, 8), torch.zeros(3, 8, 8, device="meta"), b"", 2.5)
            )
        inner = [sample(chance, depth + 1) for _ in range(chance.randint(0, 3))]
        if kind < 5:
            return inner
        return tuple(inner) if kind < 7 else dict(enumerate(inner))

    for chance in cases(400):
        given = sample(chance)
        with in_time():
            try:
                result = purify(given)
            except (ValueError, TypeError):
                continue
        assert type(result) is type(given)


def test_options(cases):
    names = ("method", "checkpoint", "ebm_steps", "filter_fraction", "energy_threshold", "columns", "seed", "dtype")
    for chance in cases(400):
        options = {chance.choice(names): chance.choice(ODD) for _ in range(chance.randint(1, 3))}
        with in_time():
            try:
                purifier = PureGen(**options)
            except (ValueError, TypeError, FileNotFoundError):
                continue
        assert PureGen.from_dict(purifier.to_dict()).to_dict() == purifier.to_dict()

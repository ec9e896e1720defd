"""Random small data sets through every way in: what comes out is what went in, but for the pixels of its images."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from torch.utils.data import ConcatDataset, Subset

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.sources import open_source
from tests.whole_sets.test_torch_samples import same

LETTERS = "aB é[]*?'#%&{}~ 漢"
MODES = ["L", "LA", "RGB", "RGBA"]


class Draw(random.Random):
    """Draws of a seed."""

    def image(self, modes=MODES, side=None):
        mode = self.choice(modes)
        width, height = (side or self.randint(8, 20) for _ in range(2))
        if mode == "P":
            return self.image(["RGB"], side).quantize(self.randint(2, 32))
        pixels = np.random.default_rng(self.getrandbits(32)).integers(
            0, 256, (height, width, len(PILImage.new(mode, (1, 1)).getbands()))
        )
        return PILImage.fromarray(pixels.astype(np.uint8).squeeze())

    def name(self):
        return "".join(self.choices(LETTERS, k=self.randint(1, 6))).strip() + str(self.randint(0, 99))

    def maybe(self, value):
        return None if self.random() < 0.2 else value

    def column(self):
        """A type of a column, and what makes a value of it."""
        label = ClassLabel(names=[f"{place} {self.name()}" for place in range(3)])
        kinds = {
            "class": (label, lambda: self.choice([0, 1, 2, -1])),
            "int": (Value(self.choice(["int64", "int8"])), lambda: self.maybe(self.randint(-100, 100))),
            "float": (Value("float64"), lambda: self.maybe(self.choice([1.0, 0.1, -2.5]))),
            "text": (Value("string"), lambda: self.maybe(self.name())),
            "bool": (Value("bool"), lambda: self.maybe(self.random() < 0.5)),
            "list": (List(Value("int64")), lambda: self.maybe([self.randint(0, 9)] * self.randint(0, 3))),
            "dict": (
                {"x": Value("float64"), "names": List(Value("string"))},
                lambda: {"x": self.maybe(0.5), "names": [self.name()] * self.randint(0, 2)},
            ),
            "binary": (Value("binary"), lambda: self.maybe(self.randbytes(5))),
        }
        return kinds[self.choice(list(kinds))]


def stored(picture, image_format="PNG"):
    buffer = io.BytesIO()
    picture.save(buffer, image_format)
    return {"bytes": buffer.getvalue(), "path": None}


class Tables:
    """A data set of tables, some splits of the same columns."""

    def __init__(self, draw):
        self.inputs = ["picture", "second"][: draw.choice([1, 1, 1, 2])]
        self.masks = ["mask"][: draw.randint(0, 1)]
        self.columns = self.inputs if len(self.inputs + self.masks) > 1 else draw.choice([None, self.inputs])
        kinds = {f"column {draw.name()}": draw.column() for _ in range(draw.randint(0, 4))}
        images = {name: Image() for name in [*self.inputs, *self.masks]}
        self.features = Features(images | {name: kind for name, (kind, _) in kinds.items()})
        self.splits = {}
        for split in ["train", "test", "extra.1"][: draw.choice([1, 1, 2, 3])]:
            rows = draw.randint(1, 6)
            cells = {name: [draw.maybe(draw.image()) for _ in range(rows)] for name in self.inputs}
            cells[self.inputs[0]][0] = draw.image()
            cells |= {name: [draw.maybe(draw.image([*MODES, "P"])) for _ in range(rows)] for name in self.masks}
            cells = {name: [None if one is None else stored(one) for one in found] for name, found in cells.items()}
            self.splits[split] = cells | {name: [make() for _ in range(rows)] for name, (_, make) in kinds.items()}

    def dataset(self):
        """As `datasets` has it."""
        return DatasetDict(
            {split: Dataset.from_dict(cells, features=self.features) for split, cells in self.splits.items()}
        )


def seen(image):
    return image.mode, image.size, image.tobytes()


def check_rows(before, after, inputs, purifier):
    """Compare rows as they are stored, and the images of the inputs as they are seen."""
    assert list(before[0]) == list(after[0])
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        for name, value in old.items():
            if name in inputs and value is not None:
                value = purifier(value)
            if isinstance(value, PILImage.Image):
                assert (new[name].mode, new[name].size, new[name].tobytes()) == (
                    value.mode,
                    value.size,
                    value.tobytes(),
                )
            else:
                assert new[name] == value, name


def through_tables(draw, tmp_path):
    tables = Tables(draw)
    source = tables.dataset()
    purifier = PureGen("jpeg", jpeg_quality=50, columns=tables.columns)
    out, home = tmp_path / f"out {draw.name()}", tmp_path / f"in {draw.name()}"
    way = draw.choice(["object", "split", "stream", "saved", "files", "file"])
    first = next(iter(source))
    if way in ("object", "saved", "files"):
        given = source
        if way == "saved":
            source.save_to_disk(home)
        elif way == "files":
            home.mkdir()
            for split, rows in source.items():
                rows.to_parquet(home / f"{split}-00000-of-00001.parquet")
        if way != "object":
            given = str(home)
        clean = purify_dataset(given, purifier, output_dir=out, part_rows=draw.randint(1, 4))
        assert sorted(clean) == sorted(source)
    else:
        rows = source[first]
        given = rows.to_iterable_dataset(num_shards=draw.randint(1, len(rows))) if way == "stream" else rows
        if way == "file":
            rows.to_parquet(tmp_path / "x [1].parquet")
            given = str(tmp_path / "x [1].parquet")
        clean = purify_dataset(given, purifier, output_dir=out, part_rows=draw.randint(1, 4))
        clean = {first: clean["train"] if way == "file" else clean}
        source = {first: rows}
    for split, rows in source.items():
        assert clean[split].features == rows.features
        check_rows(list(rows), list(clean[split]), tables.inputs, PureGen("jpeg", jpeg_quality=50))


def through_folders(draw, tmp_path):
    home, out, pictures = tmp_path / f"in {draw.name()}", tmp_path / f"out {draw.name()}", {}
    splits = draw.choice([[""], ["train/", "Test/"]])
    classes = draw.sample([draw.name(), "train", "cat [1]", "dog", "test", "été"], draw.randint(2, 4))
    for split in splits:
        for name in classes:
            for row in range(draw.randint(1, 3)):
                suffix = draw.choice(["png", "PNG", "bmp", "tif", "jpg", ""])
                modes = {"bmp": ["RGB", "L", "RGBA"], "jpg": ["RGB", "L"]}.get(suffix, MODES)
                path = f"{split}{name}/{row}{draw.name()}" + ("." + suffix if suffix else "")
                kind = {"bmp": "BMP", "tif": "TIFF", "jpg": "JPEG"}.get(suffix, "PNG")
                (home / path).parent.mkdir(parents=True, exist_ok=True)
                (home / path).write_bytes(stored(draw.image(modes), kind)["bytes"])
                pictures[path] = PILImage.open(home / path)
    (home / draw.choice(["notes.txt", ".DS_Store", "skipped.txt"])).write_text("notes")
    before = open_source(str(home))
    assert sum(map(len, before.values())) == len(pictures)
    options = draw.choice([{}, {"image_format": "png"}, {"keep_names": True}])
    after = purify_dataset(home, PureGen("jpeg", jpeg_quality=50), output_dir=out, **options)
    assert list(before) == list(after)
    if options == {"keep_names": True}:
        assert {path for path in pictures if not (out / path).is_file()} == set()
    for split, rows in before.items():
        assert rows.features == after[split].features
        check_sets(list(rows), list(after[split]), as_jpeg=options == {"keep_names": True})


def check_sets(before, after, *, as_jpeg):
    """Compare images and classes; a new ending may change the order of names."""
    purifier = PureGen("jpeg", jpeg_quality=50)
    expected = [(purifier(row["image"]), row["image"].format, row.get("label")) for row in before]
    expected = [
        (through_jpeg(image) if as_jpeg and kind == "JPEG" else image, label) for image, kind, label in expected
    ]
    found = [(row["image"], row.get("label")) for row in after]
    assert sorted((label, seen(image)) for image, label in found) == sorted(
        (label, seen(image)) for image, label in expected
    )


def through_jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return PILImage.open(buffer)


class AnySamples:
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        return self.samples[row]


def through_samples(draw, tmp_path):
    torch.manual_seed(draw.getrandbits(32))
    rows, kind = draw.randint(1, 5), draw.choice(["tuple", "list", "dict"])
    is_tensor = draw.random() < 0.4

    def image():
        return torch.randint(256, (draw.choice([1, 3]), 8, 9), dtype=torch.uint8) if is_tensor else draw.image()

    values = [
        lambda: draw.choice([1, 2.5, True, None]),
        lambda: draw.randint(-5, 5),
        lambda: draw.name(),
        lambda: [draw.randint(0, 3)] * draw.randint(0, 2),
        lambda: torch.arange(draw.randint(0, 3)) * draw.choice([1, 0.5]),
        lambda: {"a": (draw.name(), None)},
        lambda: np.array([draw.random()] * draw.randint(0, 2)),
        lambda: np.float32(draw.random()),
    ]
    chosen = [draw.choice(values) for _ in range(draw.randint(0, 3))]
    samples = []
    for _ in range(rows):
        parts = [image(), *(make() for make in chosen)]
        named = {"image": parts[0]} | {f"k{place}": part for place, part in enumerate(parts[1:])}
        samples.append(named if kind == "dict" else parts if kind == "list" else tuple(parts))
    source = AnySamples(samples)
    if draw.random() < 0.3:
        source = Subset(source, draw.choices(range(rows), k=draw.randint(1, rows)))
    if draw.random() < 0.3:
        source = ConcatDataset([source, AnySamples(samples)])
    columns = ("image",) if kind == "dict" else (0,)
    clean = purify_dataset(
        source, PureGen("jpeg", jpeg_quality=50, columns=columns), output_dir=tmp_path / "out", part_rows=2
    )
    purifier = PureGen("jpeg", jpeg_quality=50)
    assert len(clean) == len(source)
    for row in range(len(source)):
        before, after = source[row], clean[row]
        assert type(before) is type(after)
        (first, *old), (purified, *new) = (list(one.values() if kind == "dict" else one) for one in (before, after))
        assert same(old, new)
        expected = purifier(first)
        if is_tensor:
            assert torch.equal(purified, expected)
        else:
            assert (purified.mode, purified.size, purified.tobytes()) == (
                expected.mode,
                expected.size,
                expected.tobytes(),
            )


WAYS = [through_tables, through_folders, through_samples]


@pytest.fixture
def silent(monkeypatch, tmp_path):
    from datasets import disable_progress_bars, enable_progress_bars

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    disable_progress_bars()
    yield
    enable_progress_bars()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("seed", range(8))
def test_what_goes_in_comes_out(way, seed, tmp_path, silent):
    way(Draw(seed), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("hundred", range(7))
def test_what_goes_in_comes_out_of_many(way, hundred, tmp_path, silent):
    for seed in range(1000 + 100 * hundred, 1100 + 100 * hundred):
        home = tmp_path / str(seed)
        home.mkdir()
        try:
            way(Draw(seed), home)
        except Exception as error:
            raise AssertionError(f"seed {seed} of {way.__name__}") from error

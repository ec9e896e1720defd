"""Palettes, CMYK and animations are searched, copied and purified in RGB, as torchvision reads them."""

from __future__ import annotations

import io
import json

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms import PureGen, clean_dataset
from puregen_transforms.cli.main import app
from puregen_transforms.detection.whole_search import search_set
from puregen_transforms.whole_sets.verify import changes_since, problems_of
from tests.cleaning.conftest import COUNT, POISONED, cells, content, images_of
from tests.cleaning.pairs import Pairs

KEPT = [row for row in range(COUNT) if row not in POISONED]
ODD = {1: "001.png", 2: "002.jpg", 3: "003.gif", 5: "005.png"}
"""Rows that are refused unless they are converted: a palette, CMYK, two animations, of which the last is poisoned."""


def encoded(picture, kind="PNG", **settings):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def files(pictures):
    """What is stored of each row, by its name in a folder."""
    stored = {f"{row:03d}.png": encoded(picture) for row, (picture, _) in enumerate(pictures)}
    del stored["002.png"], stored["003.png"]
    stored["001.png"] = encoded(pictures[1][0].quantize(32))
    stored["002.jpg"] = encoded(pictures[2][0].convert("CMYK"), "JPEG")
    stored["003.gif"] = encoded(pictures[3][0], "GIF", save_all=True, append_images=[pictures[0][0]])
    stored["005.png"] = encoded(pictures[5][0], save_all=True, append_images=[pictures[1][0]])
    return {name: stored[name] for name in sorted(stored)}


@pytest.fixture
def folder(files, pictures, tmp_path):
    for (name, data), (_, label) in zip(files.items(), pictures, strict=True):
        (tmp_path / f"images/{label}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"images/{label}/{name}").write_bytes(data)
    return tmp_path / "images"


@pytest.fixture
def table(files, pictures):
    stored = [{"bytes": data, "path": name} for name, data in files.items()]
    rows = {"image": stored, "label": [label for _, label in pictures], "id": list(range(COUNT))}
    return Dataset.from_dict(rows, Features({"image": Image(), "label": Value("int64"), "id": Value("int64")}))


def run(*arguments):
    return CliRunner().invoke(app, ["clean", *map(str, arguments), "--budget", "2m", "--device", "cpu"])


def clean(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done


def in_rgb(data):
    return PILImage.open(io.BytesIO(data)).convert("RGB").tobytes()


def by_number(folder):
    return {int(name.rpartition("/")[2][:3]): data for name, data in content(folder).items() if name[-4] == "."}


def test_the_copy_has_the_pixels_that_were_searched_and_all_other_bytes(folder, files, tmp_path, monkeypatch):
    searched = []

    def search(suspects, **settings):
        searched.extend(suspects.images)
        return search_set(suspects, **settings)

    monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", search)
    before = by_number(folder)
    clean(folder, tmp_path / "out", "--convert")
    after = by_number(tmp_path / "out")
    assert sorted(after) == KEPT
    names = [int(path.name[:3]) for path in sorted(folder.rglob("*.*"))]
    seen = {row: image.tobytes() for row, image in zip(names, searched, strict=True)}
    for row in KEPT:
        if row in ODD:
            picture = PILImage.open(io.BytesIO(after[row]))
            assert (picture.mode, getattr(picture, "n_frames", 1)) == ("RGB", 1)
            assert picture.tobytes() == in_rgb(before[row]) == seen[row]
        else:
            assert after[row] == before[row]
    assert {path.name for path in (tmp_path / "out").rglob("00[1-3].*")} == {"001.png", "002.png", "003.png"}
    left_out = json.loads((tmp_path / "out/skipped.json").read_text())
    assert {int(row["file"][-7:-4]) for row in left_out} == set(POISONED)
    assert not list(problems_of(tmp_path / "out"))
    assert not list(changes_since(tmp_path / "out", str(folder)))


def test_without_it_they_are_refused_by_name(folder, tmp_path):
    done = run(folder, tmp_path / "out")
    assert done.exit_code == 1
    said = " ".join(done.stderr.split())
    assert "--convert" in said
    assert any(name in said for name in ODD.values())
    assert not (tmp_path / "out").exists()


def test_what_is_put_in_quarantine_stays_as_it_was(folder, files, tmp_path):
    clean(folder, tmp_path / "out", "--convert", "--flagged", "quarantine")
    before = images_of(folder)
    assert images_of(tmp_path / "out.quarantine") == {
        name: data for name, data in before.items() if int(name[-7:-4]) in POISONED
    }


def test_of_a_table_in_parts_only_what_is_flagged_is_purified(table, tmp_path, tiny_checkpoint):
    purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=1, seed=0, device="cpu", dtype="float32")
    found = clean_dataset(
        table,
        output_dir=tmp_path / "out",
        flagged="purify",
        purifier=purifier,
        convert=True,
        part_rows=7,
        budget="2m",
        device="cpu",
    ).kept
    before, after = cells(table), cells(found)
    assert found["id"][:] == list(range(COUNT))
    for row in range(COUNT):
        if row in POISONED:
            picture = PILImage.open(io.BytesIO(before[row])).convert("RGB")
            assert in_rgb(after[row]) == purifier(picture).tobytes()
        elif row in ODD:
            assert in_rgb(after[row]) == in_rgb(before[row])
        else:
            assert after[row] == before[row]
    assert [found[row]["image"].mode for row in (1, 2, 3)] == ["RGB"] * 3


def test_palettes_of_a_torch_data_set_become_rgb(pictures, tmp_path):
    odd = [picture.quantize(64) if row == 1 else picture for row, (picture, _) in enumerate(pictures)]
    dataset = Pairs(list(zip(odd, [label for _, label in pictures], strict=True)))
    options = {"budget": "2m", "device": "cpu"}
    with pytest.raises(ValueError, match="mode 'P'"):
        clean_dataset(dataset, **options)
    found = clean_dataset(dataset, output_dir=tmp_path / "out", convert=True, **options)
    assert found.removed.indices == POISONED
    assert found.kept[0][0].mode == "RGB"
    assert found.kept[0][0].tobytes() == odd[1].convert("RGB").tobytes()


def test_a_format_is_for_what_is_converted_or_purified(folder, tmp_path):
    done = run(folder, tmp_path / "out", "--format", "webp")
    assert done.exit_code == 1
    assert "but all are copied byte for byte" in " ".join(done.stderr.split())
    clean(folder, tmp_path / "out", "--format", "webp", "--convert")
    names = {path.name for path in (tmp_path / "out").rglob("*.webp")}
    assert names == {"001.webp", "002.webp", "003.webp"}


def test_a_name_that_cannot_be_kept_is_said_before_the_search(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
    done = run(folder, tmp_path / "out", "--keep-names", "--convert")
    assert done.exit_code == 1
    assert "003.gif" in done.stderr

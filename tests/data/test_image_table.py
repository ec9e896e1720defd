"""Metadata files name images of a folder; images that they do not name get a row, too."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image, List

from puregen_transforms.data.image_table import read_image_table

IMAGES = ["a.png", "inner/b.png"]
ROWS = [{"file_name": "a.png", "text": "x"}, {"file_name": "inner/b.png", "text": "y"}]


def write(path, rows):
    if path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_three_kinds_say_the_same(tmp_path, suffix):
    write(tmp_path / f"metadata{suffix}", ROWS)
    found = read_image_table(tmp_path, [f"metadata{suffix}"], IMAGES)
    assert list(found.features) == ["image", "text"]
    assert isinstance(found.features["image"], Image)
    assert list(found.paths_in(["image"])) == IMAGES
    rows = found.dataset(tmp_path, "train").cast_column("image", Image(decode=False))
    assert rows["text"][:] == ["x", "y"]
    assert rows[1]["image"] == {"bytes": None, "path": str(tmp_path / "inner/b.png")}


def test_names_are_relative_to_the_file_that_has_them(tmp_path):
    (tmp_path / "inner").mkdir()
    write(tmp_path / "inner/metadata.jsonl", [{"file_name": "b.png"}, {"file_name": "../a.png"}])
    found = read_image_table(tmp_path, ["inner/metadata.jsonl"], IMAGES)
    assert list(found.paths_in(["image"])) == ["inner/b.png", "a.png"]


def test_columns_of_several_images(tmp_path):
    write(tmp_path / "metadata.jsonl", [{"left_file_name": "a.png", "file_names": ["a.png", "inner/b.png"]}])
    found = read_image_table(tmp_path, ["metadata.jsonl"], IMAGES)
    assert list(found.features) == ["left", "images"]
    assert isinstance(found.features["images"], List)
    assert list(found.paths_in(["left", "images"])) == ["a.png", "a.png", "inner/b.png"]


def test_images_without_a_row_get_one(tmp_path):
    write(tmp_path / "metadata.jsonl", ROWS[:1])
    found = read_image_table(tmp_path, ["metadata.jsonl"], IMAGES)
    assert found.table.to_pylist() == [{"image": "a.png", "text": "x"}, {"image": "inner/b.png", "text": None}]


def test_tables_of_something_else_are_left_aside(tmp_path):
    write(tmp_path / "metadata.csv", [{"name": "a.png"}])
    assert read_image_table(tmp_path, ["metadata.csv"], IMAGES) is None
    assert read_image_table(tmp_path, [], IMAGES) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "../../etc/passwd"}', "there is no"),
        ('{"file_name": "gone.png"}', r"there is no '?\"?gone\.png"),
        ('{"left_file_name": "a.png"}', r"does not name inner/b\.png"),
        ('{"file_name": "a.png", "image": 1}', "several are 'image'"),
        ("{", r"to be a \.jsonl file"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, content, message):
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_image_table(tmp_path, ["metadata.jsonl"], IMAGES)

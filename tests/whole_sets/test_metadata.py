"""Metadata of a folder follow the new names of its images."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puregen_transforms.whole_sets.metadata import check_metadata, rewrite_metadata

TARGETS = {"in/a.jpg": "in/a.png", "in/b.png": "in/b.png", "in/c.jpg": "in/c.png"}
ROWS = [
    {"file_name": "a.jpg", "text": "a.jpg", "number": 1},
    {"file_name": "b.png", "text": "b", "number": 2},
    {"file_name": "./c.jpg", "text": "c", "number": 3},
]


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in (rows[0], *(one.values() for one in rows))) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read(path):
    if path.suffix == ".csv":
        first, *rows = path.read_text().splitlines()
        found = [dict(zip(first.split(","), row.split(","), strict=True)) for row in rows]
        return [{**row, "number": int(row["number"])} for row in found]
    if path.suffix == ".jsonl":
        return list(map(json.loads, path.read_text().splitlines()))
    return pq.read_table(path).to_pylist()


def rewritten(path, targets=TARGETS, dropped=()):
    new = path.with_name("new" + path.suffix)
    rewrite_metadata(path, new, folder="in", targets=targets, dropped=dropped)
    return new


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_names_follow_and_rows_of_images_left_out_go(tmp_path, suffix):
    new = rewritten(write(tmp_path / f"in/metadata{suffix}", ROWS), dropped=["in/b.png"])
    assert read(new) == [{**ROWS[0], "file_name": "a.png"}, {**ROWS[2], "file_name": "c.png"}]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_without_a_change_stays_as_it_is(tmp_path, suffix):
    old = write(tmp_path / f"in/metadata{suffix}", ROWS)
    assert rewritten(old, targets={"in/b.png": "in/b.png"}).read_bytes() == old.read_bytes()


def test_names_in_lists_and_in_columns_of_other_names(tmp_path):
    rows = [{"file_names": ["a.jpg", "b.png"], "mask_file_name": "../m.jpg", "more": {"file_name": "c.jpg"}}]
    new = rewritten(write(tmp_path / "in/metadata.jsonl", rows), targets={**TARGETS, "m.jpg": "m.png"})
    assert read(new) == [
        {"file_names": ["a.png", "b.png"], "mask_file_name": "../m.png", "more": {"file_name": "c.png"}}
    ]


def test_one_that_is_damaged_is_found_before_the_work(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": ')
    with pytest.raises(ValueError, match=r"metadata\.jsonl to be a \.jsonl file"):
        check_metadata(tmp_path, ["metadata.jsonl"], TARGETS)

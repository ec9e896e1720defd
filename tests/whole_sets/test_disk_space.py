"""The room that a copy takes is estimated, and looked for before the work."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest

from puregen_transforms import PureGen
from puregen_transforms.data.sources import DatasetSplit
from puregen_transforms.whole_sets.disk_space import in_words
from puregen_transforms.whole_sets.part_by_part import purify_copy
from puregen_transforms.whole_sets.plan import table_copy
from puregen_transforms.whole_sets.storage import Storage


def test_a_disk_that_is_surely_too_small_is_said_before_the_work(source, purify, disk, tmp_path):
    (source / "film.bin").write_bytes(bytes(250_000))
    refused = purify(source, tmp_path / "disk/out")
    assert refused.exit_code == 1
    assert re.search(
        r"takes about 3[0-9]{2} kB, but only [0-9]{2} kB are free on the disk of .*/disk\b", refused.stderr
    )
    assert list((tmp_path / "disk").iterdir()) == []
    disk("size=200k")
    warned = purify(source, tmp_path / "disk/out")
    assert "The copy may not fit: it takes about 3" in warned.stderr
    disk("size=10m")
    again = purify(source, tmp_path / "disk/out")
    assert again.exit_code == 0
    assert "may not fit" not in again.stderr


@pytest.mark.parametrize(("name", "copies"), [("out", 1), ("out.parquet", 2)])
def test_the_room_for_tables_is_estimated_by_storing_some_images(table, tmp_path, name, copies):
    source = table_copy({"train": DatasetSplit(dataset=table)}, ())
    purifier = PureGen("jpeg", jpeg_quality=90, seed=0)
    purify_copy(source, tmp_path / name, purifier, fit=lambda purifier: None)
    files = [tmp_path / name] if copies == 2 else list((tmp_path / name / "data").iterdir())
    written = sum(path.stat().st_size for path in files)
    assert source.stored_bytes() == pytest.approx(written, rel=0.25)
    smaller = replace(source, storage=Storage(image_format="jpeg"))
    assert smaller.stored_bytes() < 0.7 * source.stored_bytes()


def test_a_single_file_needs_room_for_its_parts_too(source, purify, disk, table, tmp_path):
    table.select(range(24)).to_parquet(tmp_path / "in.parquet")
    disk("size=100k")
    for name, is_warned in (("out.parquet", True), ("out", False)):
        assert ("may not fit" in purify(tmp_path / "in.parquet", tmp_path / "disk" / name).stderr) is is_warned
        shutil.rmtree(tmp_path / f"disk/{name}.unfinished", ignore_errors=True)


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (15_000, "15 kB"), (3.2e12, "3.2 TB")]
)
def test_sizes_in_words(size, words):
    assert in_words(size) == words

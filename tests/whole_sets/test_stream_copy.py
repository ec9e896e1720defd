"""Streams: rows and images as they were, and gone on with within a shard."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from datasets import Features, Value, load_dataset

from puregen_transforms import purify_dataset
from tests.whole_sets.conftest import content, pixels, stop_after


@pytest.fixture
def shards(table, tmp_path):
    for shard in range(3):
        table.select(range(20 * shard, 20 * shard + (20 if shard < 2 else 13))).to_parquet(
            tmp_path / f"in/{shard}.parquet"
        )
    return load_dataset("parquet", data_files=str(tmp_path / "in/*.parquet"), split="train", streaming=True)


def test_rows_and_images(shards, table, purifier, tmp_path):
    clean = purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
    rows = list(clean)
    assert [row["row"] for row in rows] == list(range(53))
    assert np.array_equal(pixels(row["image"] for row in rows), pixels(purifier(table["image"][:53])))
    assert clean.features == shards.features


def test_a_killed_run_goes_on_within_a_shard(shards, purifier, tmp_path, monkeypatch):
    purify_dataset(shards, purifier, output_dir=tmp_path / "whole", part_rows=8)
    stop_after(monkeypatch, parts=2)
    with pytest.raises(KeyboardInterrupt):
        purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
    monkeypatch.undo()
    purify_dataset(shards, purifier, output_dir=tmp_path / "out", part_rows=8)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("cut", ["take", "skip"])
def test_rows_that_were_cut_off(shards, purifier, tmp_path, cut):
    stream = getattr(shards, cut)(25)
    rows = list(purify_dataset(stream, purifier, output_dir=tmp_path / "out", part_rows=8))
    assert [row["row"] for row in rows] == [row["row"] for row in stream]


def test_webdataset_shards(pictures, purifier, tmp_path):
    (tmp_path / "in").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / f"in/{shard}.tar", "w") as archive:
            for row in range(5 * shard, 5 * shard + 5):
                buffer = io.BytesIO()
                pictures[row].save(buffer, "PNG")
                for name, data in (("png", buffer.getvalue()), ("cls", str(row).encode())):
                    member = tarfile.TarInfo(f"{row:04d}.{name}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    stream = load_dataset("webdataset", data_files=str(tmp_path / "in/*.tar"), split="train", streaming=True)
    rows = list(purify_dataset(stream, purifier, output_dir=tmp_path / "out", part_rows=3))
    assert [row["cls"] for row in rows] == list(range(10))
    assert np.array_equal(pixels(row["png"] for row in rows), pixels(purifier(pictures[:10])))


def test_unknown_features_are_explained(table, purifier, tmp_path):
    stream = table.to_iterable_dataset().map(lambda row: {"x": 1}, features=Features({"x": Value("int64")}))
    with pytest.raises(ValueError, match="column of images"):
        purify_dataset(stream.select_columns("x"), purifier, output_dir=tmp_path / "out")

"""Parquet files are read where they are, and belong to the splits that their names say."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from puregen_transforms.data.parquet_files import ParquetSplit, parquet_below, parquet_splits


def write(folder, name, numbers=(0,), **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": pa.array(numbers, pa.int64())}), path, **options)
    return path


@pytest.mark.parametrize(("size", "start", "stop"), [(3, 0, 10), (4, 2, 9), (100, 0, 10), (1, 9, 10), (2, 5, 5)])
def test_rows_are_read_across_files_and_row_groups(tmp_path, size, start, stop):
    paths = [
        write(tmp_path, "a.parquet", range(7), row_group_size=2),
        write(tmp_path, "b.parquet", []),
        write(tmp_path, "c.parquet", range(7, 10)),
    ]
    split = ParquetSplit.open(paths)
    assert split.rows == 10
    batches = [batch.column("x").to_pylist() for batch in split.batches(size, start, stop)]
    assert [number for batch in batches for number in batch] == list(range(start, stop))
    assert all(len(batch) == size for batch in batches[:-1])


def test_files_of_other_columns_are_refused(tmp_path):
    first = write(tmp_path, "a.parquet")
    pq.write_table(pa.table({"y": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"the columns \['x'\] of a\.parquet, but .*b\.parquet has \['y'\]"):
        ParquetSplit.open([first, tmp_path / "b.parquet"])
    (tmp_path / "c.parquet").write_text("none")
    with pytest.raises(ValueError, match=r"Expected a Parquet file, but .*c\.parquet"):
        ParquetSplit.open([tmp_path / "c.parquet"])


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"], ["train", "test"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], ["train"]),
        (["Test.parquet", "training.parquet"], ["train", "test"]),
        (["val/a.parquet", "train/b.parquet"], ["train", "validation"]),
        (["a.parquet", "b.parquet"], ["train"]),
        (["train.parquet", "metadata.parquet", ".hidden/test.parquet"], ["train"]),
    ],
)
def test_names_or_folders_say_the_split(tmp_path, names, splits):
    for name in names:
        write(tmp_path, name)
    found = parquet_splits(tmp_path)
    assert list(found) == splits
    assert sorted(path for paths in found.values() for path in paths) == parquet_below(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.parquet", "rest.parquet"], r"to belong to a split, as train.*rest\.parquet"),
        (["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"], "both have a split 'train'"),
    ],
)
def test_several_sets_are_not_taken_for_one(tmp_path, names, message):
    for name in names:
        write(tmp_path, name)
    with pytest.raises(ValueError, match=message):
        parquet_splits(tmp_path)

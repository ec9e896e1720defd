"""The copy of a data set is planned by its kind."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from puregen_transforms.data.sources import DatasetSplit
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.plan import check_apart, copy_of, table_copy
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.table_copy import TableCopy
from tests.cli.files import encoded, picture, put

CELL = {"bytes": encoded(picture(0)), "path": None}
ROWS = Dataset.from_dict({"image": [CELL, CELL]}, features=Features({"image": Image()}))


def split(rows=ROWS):
    return DatasetSplit(dataset=rows)


def test_images_become_a_folder_and_tables_parquet(tmp_path):
    put(tmp_path / "images/a.png", CELL["bytes"])
    ROWS.to_parquet(tmp_path / "rows.parquet")
    storage = Storage(image_format="webp")
    folder = copy_of(str(tmp_path / "images"), tmp_path / "out", storage=storage)
    table = copy_of(str(tmp_path / "rows.parquet"), tmp_path / "out.parquet", storage=storage)
    assert isinstance(folder, FolderCopy)
    assert isinstance(table, TableCopy)
    assert folder.describe()["storage"] == table.describe()["storage"] == {"image_format": "webp"}


def test_a_destination_must_fit(tmp_path):
    put(tmp_path / "images/a.png", CELL["bytes"])
    DatasetDict(train=ROWS, test=ROWS).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="Expected a folder as the destination of a folder of images"):
        copy_of(str(tmp_path / "images"), tmp_path / "out.parquet")
    with pytest.raises(ValueError, match="Expected one split for a single file"):
        copy_of(str(tmp_path / "saved"), tmp_path / "out.parquet")
    one = copy_of(str(tmp_path / "saved"), tmp_path / "out.parquet", splits=["test"])
    assert one.describe()["rows"] == {"test": 2}


@pytest.mark.parametrize("destination", [".", "inner/out", "../images"])
def test_the_source_is_never_written_into(tmp_path, destination):
    source = tmp_path / "images"
    source.mkdir()
    with pytest.raises(ValueError, match="Expected a destination outside the source"):
        check_apart(source, source / destination)
    check_apart(source, tmp_path / "images2")
    check_apart(None, source)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"../a": split()}, "splits named by letters"),
        ({"train": split(ROWS.select([]))}, "at least one row"),
        ({"train": split(), "test": split(ROWS.add_column("x", [1, 2]))}, "'x' is missing in 'train'"),
        ({"train": split(Dataset.from_dict({"x": [1]}, Features({"x": Value("int64")})))}, "a column of images"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        table_copy(tables, ())

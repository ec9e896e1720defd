"""A copy of tables: its parts, its digests, and splits of which nothing is left."""

from __future__ import annotations

import pytest
from datasets import Dataset, Features, Image, Value

from puregen_transforms.data.sources import DatasetSplit
from puregen_transforms.whole_sets.copy_folder import CopyFolder
from puregen_transforms.whole_sets.dataset_copy import PurifyOptions
from puregen_transforms.whole_sets.plan import table_copy
from puregen_transforms.whole_sets.table_copy import MOST_PARTS
from puregen_transforms.whole_sets.treatment import Treatment
from tests.cli.files import encoded, picture


def rows(count, first=0):
    cells = [{"bytes": encoded(picture(row)), "path": None} for row in range(first, first + count)]
    features = Features({"image": Image(), "id": Value("int64")})
    return DatasetSplit(dataset=Dataset.from_dict({"image": cells, "id": list(range(count))}, features=features))


@pytest.fixture
def planned():
    return table_copy({"train": rows(5), "test": rows(2, first=5)}, ())


def parts(copy, rank=0, count=1):
    return list(copy.parts_of(rank, count, lambda name: None))


def test_parts_are_the_same_for_any_number_of_processes(planned):
    cut = planned.cut(2)
    names = ["train-00000-of-00003", "train-00001-of-00003", "train-00002-of-00003", "test-00000-of-00001"]
    assert [part.name for part in parts(cut)] == names
    shares = [part.name for rank in range(3) for part in parts(cut, rank, 3)]
    assert sorted(shares) == sorted(names)


def test_more_parts_than_there_are_numbers_for_are_refused(planned):
    class Long(DatasetSplit):
        @property
        def rows(self):
            return 2 * MOST_PARTS + 1

    long = table_copy({"train": Long(dataset=rows(1).dataset)}, ())
    with pytest.raises(ValueError, match="take at least 3 rows for a part"):
        long.cut(2)
    with pytest.raises(ValueError, match="at least 1 row"):
        planned.cut(0)


def test_digests_are_of_the_rows_of_a_part(planned):
    first, second, *_ = parts(planned.cut(2))
    assert planned.source_digest(first) != planned.source_digest(second)
    assert planned.source_digest(first) == table_copy({"train": rows(5)}, ()).source_digest(first)


def test_images_are_counted_and_given_out(planned):
    assert (planned.images, planned.to_purify) == (7, 7)
    gone = table_copy(planned.tables, (), treatment=Treatment(left_out={"train": {0: "poison"}}))
    assert (gone.images, gone.to_purify) == (7, 6)
    assert len(list(gone.pictures(skip=False))) == 6


def test_a_split_of_which_no_row_is_left_is_not_written(planned, tmp_path):
    for name in ("files", "scratch"):
        (tmp_path / name).mkdir()
    into, options = CopyFolder(tmp_path / "files", tmp_path / "scratch"), PurifyOptions(purify=list)
    gone = table_copy(planned.tables, (), treatment=Treatment(left_out={"test": {0: "poison", 1: "poison"}}))
    gone.prepare(into, options)
    records, notes = gone.finish(into, [gone.write(part, into, options) for part in parts(gone)])
    assert notes == ("No row is left for test: such a split is not written, as datasets could not open it.",)
    assert [record.files == {} for record in records] == [False, True]
    assert len(list((tmp_path / "files/data").iterdir())) == 1

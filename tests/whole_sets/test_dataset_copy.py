"""Records of parts are read as they were written, and nothing else is."""

from __future__ import annotations

import json

import pytest

from puregen_transforms.whole_sets.dataset_copy import PartRecord, check_part_rows
from puregen_transforms.whole_sets.summary import Skipped

RECORD = PartRecord(
    name="train-00000-of-00001",
    split="train",
    start=3,
    stop=9,
    rows=5,
    images=5,
    source="ab",
    files={"data/a.parquet": "cd"},
    skipped=(Skipped(place={"split": "train", "row": 4, "column": "image"}, reason="it is no image"),),
    resisting=1,
    state={"a": [1]},
)


def test_a_record_comes_back():
    assert PartRecord.from_dict(json.loads(json.dumps(RECORD.to_dict()))) == RECORD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("rows", -1),
        ("rows", True),
        ("rows", "5"),
        ("files", ["a"]),
        ("files", {"": "cd"}),
        ("skipped", [{"row": 4}]),
        ("skipped", [{"row": [4], "reason": "x"}]),
        ("state", None),
    ],
)
def test_a_value_of_another_kind_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is "):
        PartRecord.from_dict({**RECORD.to_dict(), name: value})


@pytest.mark.parametrize("values", [{}, [], {**RECORD.to_dict(), "more": 1}])
def test_what_is_no_record_is_refused(values):
    with pytest.raises(ValueError, match="the record of a part"):
        PartRecord.from_dict(values)


def test_a_part_has_a_row_at_least():
    assert check_part_rows(1) == 1
    with pytest.raises(ValueError, match="at least 1 row in a part, but got 0"):
        check_part_rows(0)

"""What becomes of each row, and its record."""

import json

import pytest

from puregen_transforms.whole_sets.treatment import ALL_KEPT, ALL_PURIFIED, Treatment


def test_rows_are_left_out_purified_or_kept():
    treatment = Treatment(left_out={"train": {3: "poison"}}, purified={"train": {5}})
    assert treatment.reason("train", 3) == "poison"
    assert treatment.reason("test", 3) is None
    assert [treatment.purifies("train", row) for row in (4, 5)] == [False, True]
    assert ALL_PURIFIED.purifies("any", 0)
    assert not ALL_KEPT.purifies("any", 0)
    assert [one.purifies_any for one in (treatment, ALL_PURIFIED, ALL_KEPT)] == [True, True, False]


@pytest.mark.parametrize(
    "treatment",
    [
        ALL_PURIFIED,
        ALL_KEPT,
        Treatment(left_out={"train": {row: "odd" if row % 2 else "even" for row in range(12, 0, -1)}}),
        Treatment(left_out={"": {"b/2.png": "poison", "a/10.png": "poison"}}, purified={"": frozenset({"c.png"})}),
    ],
)
def test_a_record_gives_the_same_and_reads_the_same_whatever_the_order(treatment):
    record = json.loads(json.dumps(treatment.to_dict()))
    again = Treatment.from_dict(record)
    assert again == treatment
    assert json.dumps(again.to_dict()) == json.dumps(record)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {},
        {"left out": [], "purified": None},
        {"left out": {"train": {"poison": 3}}, "purified": None},
        {"left out": {"train": {"poison": [True]}}, "purified": None},
        {"left out": {}, "purified": {"train": "all"}},
        {"left out": {}, "purified": [1]},
    ],
)
def test_other_records_are_refused(record):
    with pytest.raises(ValueError, match="Expected what becomes of each row"):
        Treatment.from_dict(record)

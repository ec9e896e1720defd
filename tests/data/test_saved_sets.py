"""Saved data sets are opened after a look at what their files say."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, DatasetDict

from puregen_transforms.data.saved_sets import is_saved_set, load_saved_set

ROWS = Dataset.from_dict({"x": [1, 2, 3]})


@pytest.fixture
def saved(tmp_path):
    ROWS.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_one_split_or_several(saved, tmp_path):
    DatasetDict(train=ROWS, test=ROWS.select([0])).save_to_disk(tmp_path / "splits")
    assert load_saved_set(saved)["x"][:] == [1, 2, 3]
    assert {name: len(rows) for name, rows in load_saved_set(tmp_path / "splits").items()} == {"train": 3, "test": 1}
    assert is_saved_set(saved)
    assert not is_saved_set(tmp_path)


@pytest.mark.parametrize("state", [[], {"_data_files": [1]}, {"_data_files": {"filename": "gone.arrow"}}])
def test_a_state_of_another_form_is_refused(saved, state):
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match="Expected the (state|file)"):
        load_saved_set(saved)


def test_files_elsewhere_and_splits_that_are_no_names_are_refused(saved, tmp_path):
    state = json.loads((saved / "state.json").read_text())
    state["_data_files"][0]["filename"] = "../other.arrow"
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError):
        load_saved_set(saved)
    DatasetDict(train=ROWS).save_to_disk(tmp_path / "splits")
    for splits in (["../saved"], "train", [1]):
        (tmp_path / "splits/dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(ValueError, match="splits"):
            load_saved_set(tmp_path / "splits")

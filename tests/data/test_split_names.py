"""Names of splits, of files, of folders and of their copies."""

from __future__ import annotations

import pytest

from puregen_transforms.data.split_names import check_split_names, named_split, ordered_splits, split_name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("val2017", "validation"),
        ("dev", "validation"),
        ("test_1", "test"),
        ("eval", "test"),
        ("trains", None),
        ("2017", None),
        ("", None),
    ],
)
def test_folders_and_files_are_known_as_datasets_knows_them(name, split):
    assert named_split(name) == split


def test_the_usual_splits_come_first():
    assert list(ordered_splits({"extra": 1, "test": 2, "train": 3})) == ["train", "test", "extra"]


@pytest.mark.parametrize(
    ("split", "name"),
    [("train[:10%]", "train"), ("extra.1", "extra.1"), (None, "train"), ("", "train"), ("/", "train")],
)
def test_a_slice_is_named_by_its_split(split, name):
    assert split_name(split) == name


@pytest.mark.parametrize("split", ["../a", "a b", "", 3, "a/b", "a."])
def test_names_that_lead_elsewhere_are_refused(split):
    check_split_names(["train", "extra.1"], "here")
    with pytest.raises(ValueError, match="in here"):
        check_split_names(["train", split], "here")

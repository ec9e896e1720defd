"""Transforms are taken off a data set, whatever wraps it, and named to be put on again."""

from __future__ import annotations

import pytest
from torch.utils.data import ConcatDataset, Subset

from puregen_transforms.data.sample_transforms import leaves_of, transforms_of, without_transforms


class Numbers:
    """Samples that a transform acts on."""

    def __init__(self, count=4, **transforms):
        self.count = count
        self.__dict__.update(transforms)

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row >= self.count:
            raise IndexError(row)
        if getattr(self, "transforms", None):
            return self.transforms(row, "label")
        change, name = getattr(self, "transform", None), getattr(self, "target_transform", None)
        return (change(row) if change else row), (name("label") if name else "label")


def double(row):
    return 2 * row


@pytest.mark.parametrize(
    "transforms",
    [{}, {"transform": double}, {"target_transform": str.upper}, {"transforms": lambda row, label: (2 * row, label)}],
)
def test_samples_are_those_before_them(transforms):
    source = Numbers(**transforms)
    given = source[3]
    assert without_transforms(source)[3] == (3, "label")
    assert source[3] == given, "the source is as it was"


def test_wrappers_of_torch_are_looked_through():
    source = Subset(ConcatDataset([Numbers(2, transform=double), Numbers(3, transform=str)]), [4, 1])
    assert [without_transforms(source)[row][0] for row in range(2)] == [2, 1]
    leaves, places = leaves_of(source)
    assert [len(leaf) for leaf in leaves] == [2, 3]
    assert places.tolist() == [[1, 2], [0, 1]]


def test_each_row_keeps_the_transforms_of_its_data_set():
    first, second = Numbers(2, transform=double), Numbers(3, transform=str)
    assert transforms_of(Subset(first, [1])) == {"transform": double, "target_transform": None}
    by_row = transforms_of(Subset(ConcatDataset([first, second]), [4, 1]))["by_row"]
    assert [by_row(row)["transform"] for row in range(2)] == [str, double]
    assert transforms_of(Numbers()) == {"transforms": None}


class Wrapper:
    def __init__(self, inner):
        self.inner = [inner]

    def __len__(self):
        return 1

    def __getitem__(self, row):
        return self.inner[0][row]


def test_an_unknown_wrapper_of_transforms_is_refused():
    with pytest.raises(ValueError, match=r"Wrapper wraps a Numbers.*without_transforms\(\)"):
        without_transforms(Wrapper(Numbers(transform=double)))
    assert without_transforms(Wrapper(Numbers()))[0] == (0, "label")


def test_a_wrapper_that_can_be_looked_through_says_how():
    class Open(Wrapper):
        def without_transforms(self):
            return Open(without_transforms(self.inner[0]))

    assert without_transforms(Open(Numbers(transform=double)))[0] == (0, "label")

"""Columns of images are the only one there is, or those that were named."""

from __future__ import annotations

import pytest
from datasets import Features, Image, List, Value

from puregen_transforms.data.columns import check_same_features, choose_image_columns, image_columns

ONE = Features({"id": Value("int64"), "image": Image()})
TWO = Features({"mask": Image(), "image": Image()})
NESTED = Features({"views": List(Image())})


def test_the_only_one_is_chosen():
    assert choose_image_columns(ONE) == choose_image_columns(ONE, ["image"]) == ["image"]


def test_several_are_named_and_come_in_the_order_of_the_table():
    assert choose_image_columns(TWO, ["image", "mask"]) == ["mask", "image"]
    assert image_columns(TWO) == ["mask", "image"]


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        (TWO, None, r"found \['mask', 'image'\], and cannot tell which are inputs"),
        (ONE, ["id"], r"out of \['image'\], but got \['id'\]"),
        (Features({"id": Value("int64")}), None, r"found only id \(int64\)"),
        (NESTED, None, r"\['views'\] hold images inside lists"),
    ],
)
def test_nothing_is_guessed(features, columns, message):
    with pytest.raises(ValueError, match=message):
        choose_image_columns(features, columns)


def test_lists_of_images_where_they_can_be_handled():
    assert choose_image_columns(NESTED, lists=True) == ["views"]


def test_splits_of_other_columns_are_refused_by_the_first_that_differs():
    check_same_features({"train": ONE, "test": ONE})
    with pytest.raises(ValueError, match=r"'id' is .*int64.* in 'train' and missing in 'test'"):
        check_same_features({"train": ONE, "test": Features({"image": Image()})})

"""Labels in all the forms they come in."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from puregen_transforms.data.labels import class_indices

WORDS = ["dog", "cat", "cat", "bird"]


@pytest.mark.parametrize(
    "labels",
    [
        WORDS,
        tuple(WORDS),
        np.array(WORDS),
        np.array(WORDS, dtype=object),
        [np.str_(word) for word in WORDS],
        Dataset.from_dict({"label": WORDS})["label"],
    ],
)
def test_words_are_numbered_in_the_order_of_the_alphabet_or_of_the_names(labels):
    indices, names = class_indices(labels)
    assert (indices.tolist(), names) == ([2, 1, 1, 0], ("bird", "cat", "dog"))
    assert indices.dtype == torch.int64
    indices, names = class_indices(labels, ["cat", "dog", "fox", "bird"])
    assert (indices.tolist(), names) == ([1, 0, 0, 3], ("cat", "dog", "fox", "bird"))


@pytest.mark.parametrize(
    "labels",
    [
        [3, -1, 0],
        torch.tensor([3, -1, 0], dtype=torch.int8),
        np.array([3, -1, 0], dtype=np.int16),
        [torch.tensor(3), np.int64(-1), 0],
        Dataset.from_dict({"label": [3, -1, 0]})["label"],
    ],
)
def test_numbers_are_indices_already(labels):
    indices, names = class_indices(labels, ("a", "b"))
    assert (indices.tolist(), names, indices.dtype) == ([3, -1, 0], ("a", "b"), torch.int64)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None], "None in row 1. Leave images without a label out"),
        (["cat", None], "None in row 1. Leave images without a label out"),
        ([None, "cat"], "None in row 0"),
        (["cat", 1], "words as labels, like the first, but got 1 .int. in row 1"),
        ([1, "cat"], "but got 'cat' .str. in row 1"),
        ([1.0, 2.0], "whole numbers. or words as labels, but got 1.0 .float. in row 0"),
        (["cat", float("nan")], "got nan .float. in row 1"),
        ([True, False], "got True .bool. in row 0"),
        (torch.tensor([True]), "got True .bool. in row 0"),
        (np.zeros((2, 3), dtype=np.int64), r"shape \(2, 3\)"),
        ([[1, 0], [0, 1]], "list"),
    ],
)
def test_what_is_no_label_is_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_indices(labels)


def test_a_word_that_is_no_class_is_named():
    with pytest.raises(ValueError, match="out of the classes cat, fox, but got 'dog'"):
        class_indices(["cat", "dog"], ["cat", "fox"])

"""Values that no column of a table holds are written as JSON, and read back the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from puregen_transforms.whole_sets.plain_values import from_json, to_json
from tests.whole_sets.samples import same

BOXES = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 2, 3, 4]]), format="XYWH", canvas_size=(8, 9))


@pytest.mark.parametrize(
    "value",
    [
        None,
        2**70,
        -0.5,
        "\ud800 é",
        [1, [2.5, None]],
        (1, (2,)),
        {"tuple": 1, 2: {"dict": ("a",)}, (1, 2): []},
        torch.arange(6).reshape(2, 3),
        torch.zeros(0, 4),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.tensor([1 + 2j]),
        np.array([["a", "bc"]]),
        np.float16(0.1),
        np.zeros((0, 2), np.uint16),
        np.asfortranarray([[1, 2], [3, 4]]),
        BOXES,
        tv_tensors.Mask(torch.ones(2, 2, dtype=torch.bool)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_comes_back(value):
    assert same(from_json(to_json(value)), value)


@pytest.mark.parametrize("value", [object(), {1, 2}, [b"bytes"], {"a": print}, np.array([None])])
def test_only_data_are_written(value):
    with pytest.raises(TypeError):
        to_json(value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"tensor": "gone", "shape": [], "bytes": ""}',
        '{"tensor": "int64", "shape": [3], "bytes": ""}',
        '{"number": "O", "shape": [], "bytes": "AAAAAAAAAAA="}',
        '{"what": 1}',
        '{"dict": 3}',
    ],
)
def test_what_was_changed_is_refused(text):
    with pytest.raises(ValueError, match="as `purify_dataset` writes it"):
        from_json(text)

"""The samples of a torch data set come back as they were, but for the images to purify."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torchvision import tv_tensors

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.whole_sets.sample_layout import Layout, form_of, merged_form, values_of
from tests.whole_sets.samples import Samples, same

PURIFIER = PureGen("jpeg", jpeg_quality=50)


def purified(source, tmp_path, purifier=PURIFIER, **options):
    return purify_dataset(source, purifier, output_dir=tmp_path / "out", **options)


BOXES = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 2, 3, 4]]), format="XYWH", canvas_size=(32, 30))


COLUMNS = {
    "numbers of which the first is whole": [5, 4.5, 0.75],
    "soft labels": [[1, 0], [0.5, 0.5], [1.0]],
    "truth values among numbers": [True, 3, 0],
    "missing labels": [None, 1, 2],
    "texts and missing ones": ["a", None, ""],
    "lists of several lengths": [[], [1, 2], [3]],
    "whole numbers beyond 64 bits": [2**70, 1, 2],
    "numbers of numpy": [np.int64(3), np.int64(-1), np.int64(0)],
    "numbers of numpy of few bits": [np.float16(0.1), np.float16(2), np.float16(3)],
    "arrays": [np.zeros((0, 4)), np.ones((2, 4)), np.eye(4)],
    "tensors without a dimension": [torch.tensor(1), torch.tensor(2), torch.tensor(-1)],
    "tensors of several lengths": [torch.tensor([]), torch.tensor([0.1, 2.0]), torch.tensor([3.0])],
    "boxes, none at first": [torch.zeros(0, 4), torch.ones(2, 4), torch.ones(1, 4)],
    "tensors of half precision": [torch.rand(3, dtype=torch.bfloat16) for _ in range(3)],
    "boxes with their canvas": [BOXES, BOXES, tv_tensors.wrap(BOXES.as_subclass(torch.Tensor)[:0], like=BOXES)],
    "masks": [tv_tensors.Mask(torch.full((32, 32), row, dtype=torch.uint8)) for row in range(3)],
    "dicts": [{"a": 1, 2: (3, "b")}, {}, {"a": [None]}],
    "several types": ["cat", 3, torch.tensor([1])],
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_values_beside_the_image_stay_what_they_are(pictures, tmp_path, values, kind):
    def make(row):
        image = pictures[row]
        return (image, values[row]) if kind == "tuple" else {"image": image, "value": values[row]}

    clean = purified(Samples(make, rows=3), tmp_path, PureGen("jpeg", jpeg_quality=50))
    found = [clean[row] for row in range(3)]
    assert [type(sample) for sample in found] == [tuple if kind == "tuple" else dict] * 3
    assert all(
        same(sample[1] if kind == "tuple" else sample["value"], value)
        for sample, value in zip(found, values, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("is_tv", [False, True])
def test_images_keep_their_type(images, tmp_path, dtype, is_tv):
    batch = images[:3] if dtype == torch.uint8 else (images[:3].double() / 255).to(dtype)
    wrap = tv_tensors.Image if is_tv else torch.Tensor.clone
    source = Samples(lambda row: (wrap(batch[row]), row), rows=3)
    clean = purified(source, tmp_path)
    for row in range(3):
        assert type(clean[row][0]) is type(source[row][0])
        assert clean[row][0].dtype == dtype
        if dtype in (torch.uint8, torch.float32):
            assert torch.equal(clean[row][0], PURIFIER(source[row][0]))


def test_images_that_are_not_named_stay_as_they_are(pictures, tmp_path):
    masks = [PILImage.new("P", (32, 32), row) for row in range(3)]
    masks[1] = PILImage.fromarray(np.full((32, 32), 0.5, np.float32))
    source = Samples(lambda row: (pictures[row], masks[row]), rows=3)
    with pytest.raises(ValueError, match="several images"):
        purified(source, tmp_path)
    clean = purified(source, tmp_path, PureGen("jpeg", jpeg_quality=50, columns=0))
    for row in range(3):
        image, mask = clean[row]
        assert (mask.mode, mask.tobytes()) == (masks[row].mode, masks[row].tobytes())
        assert image.tobytes() == PURIFIER(pictures[row]).tobytes()


LAYOUT = Layout(kind="tuple", names=("image", "label"), forms=("pil", "int64"), inputs=("image",))


def test_a_layout_comes_back_and_no_other():
    assert Layout.from_dict(LAYOUT.to_dict()) == LAYOUT
    for change in ({"kind": "set"}, {"forms": ["pil"]}, {"forms": ["pil", "os.system"]}, {"inputs": ["gone"]}):
        with pytest.raises(ValueError, match="Expected the layout of a sample"):
            Layout.from_dict({**LAYOUT.to_dict(), **change})


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (True, "bool"),
        (2**63, "json"),
        ([1, 2], "list int64"),
        ([1, 2.5], "json"),
        ([], "json"),
        (torch.tensor(1), "tensor 0 int64"),
        (torch.zeros(2, 2), "json"),
        (np.float32(1), "number float32"),
        (None, "json"),
    ],
)
def test_the_form_of_a_value(value, form):
    assert form_of(value, is_input=False) == form


def test_values_of_several_forms_are_stored_as_json_but_images_never():
    assert merged_form(["int64", "float64"]) == "json"
    with pytest.raises(ValueError, match="got pil and int64"):
        merged_form(["pil", "int64"])


@pytest.mark.parametrize(
    ("sample", "kind", "names"),
    [((1, 2), "tuple", ("a", "b")), ({"b": 2, "a": 1}, "dict", ("a", "b")), (1, "image", ("a",))],
)
def test_samples_are_taken_apart_in_order(sample, kind, names):
    assert values_of(sample, kind, names, 0) == [1, 2][: len(names)]
    with pytest.raises(ValueError, match="a dict of 2 parts like the first, but 5 is a tuple of 3 parts"):
        values_of((1, 2, 3), "dict", ("a", "b"), 5)

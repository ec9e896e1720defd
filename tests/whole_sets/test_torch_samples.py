"""Samples of torch data sets: what comes back is what was there, but for the images; transforms are looked through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from torch.utils.data import ConcatDataset, Subset
from torchvision import tv_tensors
from torchvision.transforms import v2

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.poisoned_dataset import PoisonedDataset
from puregen_transforms.data.sample_transforms import without_transforms
from tests.whole_sets.test_purify_dataset import Pictures, Samples

PURIFIER = PureGen("jpeg", jpeg_quality=50)


def purified(source, tmp_path, purifier=PURIFIER, **options):
    return purify_dataset(source, purifier, output_dir=tmp_path / "out", **options)


def same(value, other):
    """Tell whether two values are of the same type and content."""
    if type(value) is not type(other):
        return False
    if isinstance(value, torch.Tensor):
        metadata = [getattr(one, "__dict__", {}) for one in (value, other)]
        return (
            value.dtype == other.dtype
            and value.shape == other.shape
            and torch.equal(value, other)
            and (metadata[0] == metadata[1])
        )
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and value.shape == other.shape and value.tobytes() == other.tobytes()
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    if isinstance(value, dict):
        return list(value) == list(other) and all(same(value[key], other[key]) for key in value)
    return value == other


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


def test_the_transforms_of_a_pair_go_to_its_parts(pictures, tmp_path):
    class Segmented(Pictures):
        def __getitem__(self, index):
            pair = self.pictures[index], PILImage.new("L", (32, 32), index)
            return pair if self.transforms is None else self.transforms(*pair)

    source = Segmented(pictures[:3], transform=v2.PILToTensor(), target_transform=lambda mask: mask.getpixel((0, 0)))
    clean = purified(source, tmp_path, PureGen("jpeg", columns=0))
    assert clean[2][0].shape == (3, 32, 32)
    assert clean[2][1] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda row: (PILImage.new("RGB", (32, 32)), 1)[: 2 - row], "sample|single|tuple"),
        (lambda row: (PILImage.new("RGB" if row == 0 else "CMYK", (32, 32)), 1), "sample 1 has mode 'CMYK'"),
        (lambda row: (PILImage.new("RGB", (32, 32)) if row == 0 else torch.zeros(3, 32, 32), 1), r"pil.*\(sample 1\)"),
        (lambda row: (PILImage.new("RGB", (32, 32)), object() if row else 1), "object as 'field_1'"),
        (lambda row: {"image": PILImage.new("RGB", (32, 32)), **({"text": "a"} if row else {})}, "sample 1 differs"),
    ],
)
def test_what_does_not_fit_is_said_before_the_work(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        purified(Samples(make, rows=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


CROP = v2.RandomCrop(8)


class Wrapped:
    """A wrapper of somebody's own."""

    def __init__(self, dataset):
        self.inner = dataset

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


class Open(Wrapped):
    """One that can be looked through."""

    def without_transforms(self):
        return Open(without_transforms(self.inner))


def poisoned(dataset):
    """A poison of no row: what is tested is the wrapper."""
    empty = torch.zeros(0, dtype=torch.int64)
    poison = Poison(
        attack="badnets",
        target_class=1,
        ids=empty,
        images=torch.zeros(0, 3, 32, 32, dtype=torch.uint8),
        labels=empty,
        originals=(),
        class_names=("cat", "dog"),
        set_rows=len(dataset),
        budget=None,
        seed=0,
    )
    return PoisonedDataset(dataset, poison)


WRAPPERS = {
    "subset": lambda one: Subset(one, [4, 1]),
    "joined": lambda one: ConcatDataset([one, one]),
    "a subset of joined": lambda one: Subset(ConcatDataset([one, one]), [5, 0]),
    "poisoned": poisoned,
    "poisoned and joined": lambda one: poisoned(ConcatDataset([one, one])),
    "joined poisoned": lambda one: ConcatDataset([poisoned(one), one]),
    "a wrapper that can be looked through": Open,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_images_are_taken_before_random_transforms(pictures, tmp_path, wrap):
    plain = wrap(Pictures(pictures[:5]))
    clean = purified(wrap(Pictures(pictures[:5], transform=CROP)), tmp_path)
    stored = without_transforms(clean)
    for row in range(len(plain)):
        assert stored[row][0].tobytes() == PURIFIER(plain[row][0]).tobytes()
        assert stored[row][1] == plain[row][1]
    if wrap is not Open:
        assert clean[0][0].size == (8, 8), "the transforms are put back"


def test_joined_data_sets_keep_a_transform_each(pictures, tmp_path):
    crop = Pictures(pictures[:2], transform=v2.CenterCrop(8))
    tensor = Pictures(pictures[2:4], transform=v2.PILToTensor(), target_transform=lambda label: label + 10)
    clean = purified(Subset(ConcatDataset([crop, tensor]), [3, 0]), tmp_path)
    assert (clean[0][0].shape, clean[0][1]) == ((3, 32, 32), 11)
    assert (clean[1][0].size, clean[1][1]) == ((8, 8), 0)


def test_joined_data_sets_of_other_classes_have_none(pictures, tmp_path):
    class Others(Pictures):
        classes = ["dog", "cat"]  # noqa: RUF012

    clean = purified(ConcatDataset([Pictures(pictures[:2]), Others(pictures[:2])]), tmp_path)
    assert [clean[row][1] for row in range(4)] == [0, 1, 0, 1]
    assert not hasattr(clean, "classes")


@pytest.mark.parametrize(
    "wrap", [Wrapped, lambda one: Wrapped(Subset(one, [0, 1])), lambda one: Subset(Wrapped(one), [1])]
)
def test_a_wrapper_that_hides_transforms_is_refused(pictures, tmp_path, wrap):
    with pytest.raises(ValueError, match=r"without_transforms\(\)"):
        purified(wrap(Pictures(pictures[:5], transform=CROP)), tmp_path)
    assert len(purified(wrap(Pictures(pictures[:5])), tmp_path)) >= 1

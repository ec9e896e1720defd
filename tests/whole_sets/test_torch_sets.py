"""Torch data sets: the copy has the samples, the interface and the transforms of its source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image as PILImage
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from puregen_transforms import PureGen, PurifiedDataset, purify_dataset
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.poisoned_dataset import PoisonedDataset
from puregen_transforms.data.sample_transforms import without_transforms
from tests.whole_sets.conftest import pixels
from tests.whole_sets.samples import Pictures, Samples

PURIFIER = PureGen("jpeg", jpeg_quality=50)


def purified(source, tmp_path, purifier=PURIFIER, **options):
    return purify_dataset(source, purifier, output_dir=tmp_path / "out", **options)


def test_samples_and_interface_are_those_of_the_source(pictures, purifier, tmp_path):
    source = Pictures(pictures[:20], transform=v2.PILToTensor(), target_transform=lambda label: label + 10)
    clean = purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=7)
    assert isinstance(clean, PurifiedDataset)
    assert len(clean) == 20
    assert clean.classes == ["cat", "dog"]
    assert clean.class_to_idx == {"cat": 0, "dog": 1}
    assert clean.targets == [row % 2 for row in range(20)]
    expected = purifier(pictures[:20])
    for row in range(20):
        image, label = clean[row]
        assert label == row % 2 + 10
        assert torch.equal(image, v2.functional.pil_to_tensor(expected[row]))
    images, labels = next(iter(DataLoader(clean, batch_size=20, num_workers=2)))
    assert images.shape == (20, 3, 32, 32)
    assert labels.tolist() == [row % 2 + 10 for row in range(20)]


def test_it_opens_without_the_source(pictures, purifier, tmp_path):
    purify_dataset(Pictures(pictures[:4]), purifier, output_dir=tmp_path / "out")
    image, label = PurifiedDataset(tmp_path / "out")[3]
    assert (image.size, label) == ((32, 32), 1)
    opened = load_dataset(str(tmp_path / "out"), split="train")
    assert opened.features["label"].names == ["cat", "dog"]


def test_image_folder(folder, purifier, tmp_path):
    source = ImageFolder(folder, transform=v2.RandomHorizontalFlip(1.0))
    clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
    assert clean.classes == source.classes
    assert clean.targets == source.targets
    expected = purifier([ImageFolder(folder)[row][0] for row in range(10)])
    flipped = [clean[row][0].transpose(0) for row in range(10)]
    assert np.array_equal(pixels(flipped), pixels(expected))


def test_subset(pictures, purifier, tmp_path):
    source = Subset(Pictures(pictures, transform=v2.PILToTensor()), [5, 2])
    clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
    assert [clean[row][1] for row in range(2)] == [1, 0]
    assert torch.equal(clean[0][0], v2.functional.pil_to_tensor(purifier([pictures[5]])[0]))


@pytest.mark.parametrize("form", ["uint8", "float", "gray"])
def test_tensors_stay_tensors(images, purifier, tmp_path, form):
    batch = images[:4] if form != "gray" else images[:4, :1]
    batch = batch.float() / 255 if form == "float" else batch
    clean = purify_dataset(TensorDataset(batch, torch.arange(4)), purifier, output_dir=tmp_path / "out")
    after = torch.stack([clean[row][0] for row in range(4)])
    assert after.dtype == batch.dtype
    assert torch.allclose(after.float(), purifier(batch).float(), atol=1e-6)
    assert clean.targets == [0, 1, 2, 3]
    assert torch.equal(clean[3][1], torch.tensor(3))


def test_dicts_lists_and_images_alone(pictures, purifier, tmp_path):
    expected = purifier(pictures[:6])
    kinds = {
        "dict": lambda row: {"picture": pictures[row], "name": f"n{row}", "box": torch.tensor([1.0, row])},
        "list": lambda row: [row, pictures[row], 0.5],
        "alone": lambda row: pictures[row],
    }
    clean = {name: purify_dataset(Samples(make), purifier, output_dir=tmp_path / name) for name, make in kinds.items()}
    sample = clean["dict"][2]
    assert list(sample) == ["picture", "name", "box"]
    assert sample["name"] == "n2"
    assert torch.equal(sample["box"], torch.tensor([1.0, 2.0]))
    assert np.array_equal(sample["picture"], expected[2])
    row, image, half = clean["list"][3]
    assert (row, half) == (3, 0.5)
    assert np.array_equal(image, expected[3])
    assert np.array_equal(clean["alone"][4], expected[4])


def test_the_transforms_of_a_pair_go_to_its_parts(pictures, tmp_path):
    class Segmented(Pictures):
        def __getitem__(self, index):
            pair = self.pictures[index], PILImage.new("L", (32, 32), index)
            return pair if self.transforms is None else self.transforms(*pair)

    source = Segmented(pictures[:3], transform=v2.PILToTensor(), target_transform=lambda mask: mask.getpixel((0, 0)))
    clean = purified(source, tmp_path, PureGen("jpeg", columns=0))
    assert clean[2][0].shape == (3, 32, 32)
    assert clean[2][1] == 2


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

"""A small set with a patch on a fifth of its images, as a folder and a table; searched for equal windows alone."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.detection import whole_search
from puregen_transforms.detection.searches import SEARCHES

COUNT = 80
POISONED = list(range(0, COUNT, 5))
"""Rows with the patch, all with the label of a dog."""

DOG = 5


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def one_search(monkeypatch):
    """The first search finds all that is planted here; the others only take their time."""
    monkeypatch.setattr(whole_search, "SEARCHES", SEARCHES[:1])


@pytest.fixture
def every_search(one_search, monkeypatch):
    """As users have it."""
    monkeypatch.setattr(whole_search, "SEARCHES", SEARCHES)


def stamped(step, classes=range(10)):
    """Images of some classes with their labels, each so many with a patch and the label of a dog."""
    demo = load_demo()
    rows = torch.isin(demo.labels, torch.tensor(list(classes)))
    images, labels = demo.images[rows].clone(), demo.labels[rows].clone()
    patch = torch.randint(0, 256, (3, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::step, :, 2:7, 3:8] = patch
    labels[::step] = DOG
    listed = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return list(zip(listed, labels.tolist(), strict=True))


@pytest.fixture(scope="session")
def pictures():
    """The images of the set in order, with their labels."""
    return stamped(5, classes=(0, 1, 3, DOG))


def write_folder(top, pictures, name=lambda row, label: f"{CLASSES[label]}/{row:03d}.png"):
    for row, (picture, label) in enumerate(pictures):
        path = top / name(row, label)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return top


@pytest.fixture
def folder(pictures, tmp_path):
    return write_folder(tmp_path / "images", pictures)


@pytest.fixture
def table(pictures):
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES)), "id": Value("int64")})
    rows = {"image": [one for one, _ in pictures], "label": [label for _, label in pictures], "id": range(COUNT)}
    return Dataset.from_dict({**rows, "id": list(rows["id"])}, features)


def content(folder):
    """Bytes of every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images_of(folder):
    """Bytes of the images of a folder, by name."""
    return {name: data for name, data in content(folder).items() if name.endswith((".png", ".jpg"))}


def cells(dataset, column="image"):
    """Images of a data set as they are stored."""
    return [cell["bytes"] for cell in dataset.cast_column(column, Image(decode=False))[column]]

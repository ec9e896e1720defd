from __future__ import annotations

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage

from puregen_transforms import PureGen


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def purifier(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def pictures(images):
    """60 demo images of 32x32 pixels."""
    return [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:60]]


@pytest.fixture(scope="session")
def table(pictures):
    features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "row": Value("int64")})
    rows = {"image": pictures, "label": [row % 2 for row in range(60)], "row": list(range(60))}
    return Dataset.from_dict(rows, features=features)


def content(folder):
    """Bytes of every file of a copy, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(images):
    return np.stack([np.asarray(image) for image in images])

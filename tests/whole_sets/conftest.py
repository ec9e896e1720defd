from __future__ import annotations

import subprocess

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy


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


@pytest.fixture(scope="session")
def folder(pictures, tmp_path_factory):
    home = tmp_path_factory.mktemp("folder")
    for row, picture in enumerate(pictures[:10]):
        path = home / ("cat" if row % 2 == 0 else "dog") / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    return home


@pytest.fixture
def source(pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for row, picture in enumerate(pictures[:24]):
        picture.save(folder / f"{row:02d}.png")
    return folder


@pytest.fixture
def purify(tiny_checkpoint):
    def purify(source, destination, *options):
        settings = ("--checkpoint", tiny_checkpoint, "--steps", 2, "--device", "cpu", "--dtype", "float32")
        arguments = ("purify", source, destination, "--part-rows", 4, *settings, *options)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return purify


@pytest.fixture
def whole(source, purify, tmp_path):
    assert purify(source, tmp_path / "whole").exit_code == 0
    return content(tmp_path / "whole")


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 KiB; more is had by `disk(size)`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )

    if mount("size=64k").returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", folder], check=True)


def content(folder):
    """Bytes of every file of a copy, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def stop_after(monkeypatch, *, parts):
    """Have the next run interrupted in the part after so many."""
    add = UnfinishedCopy.add
    left = [parts]

    def adding(self, record):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        add(self, record)

    monkeypatch.setattr(UnfinishedCopy, "add", adding)

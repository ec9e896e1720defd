"""A folder of images is described once: images, splits, classes, and what is left out."""

from __future__ import annotations

import os

import pytest

from puregen_transforms.data.image_folder import ImageFolder
from tests.cli.files import encoded, picture, put

PNG = encoded(picture(0))


def folder(top, *paths):
    for path in paths:
        put(top / path, PNG if path.endswith((".png", "0")) else b"text")
    return ImageFolder.scan(top)


def test_files_are_images_by_name_or_content(tmp_path):
    found = folder(tmp_path, "cat/a.png", "cat/0", "notes.txt", "purified.jsonl", ".hidden/b.png")
    assert found.images == ("cat/0", "cat/a.png")
    assert found.others == ("notes.txt",)
    assert found.folders == ("cat",)
    assert found.hidden == (".hidden",)


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["cat/a.png", "dog/b.png"], {"train": ("",)}),
        (["test/cat/a.png", "Train/cat/a.png"], {"train": ("Train/",), "test": ("test/",)}),
        (["train/a.png", "val2017/b.png", "valid/c.png"], {"train": ("train/",), "validation": ("val2017/", "valid/")}),
        (["all/train/a.png", "all/test/b.png"], {"train": ("all/train/",), "test": ("all/test/",)}),
        (["train/a.png", "other/b.png"], {"train": ("",)}),
    ],
)
def test_folders_at_the_top_are_splits_if_all_are(tmp_path, paths, splits):
    assert folder(tmp_path, *paths).splits == splits


def test_classes_are_the_folders_and_the_same_in_every_split(tmp_path):
    found = folder(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/dog/c.png", "test/emu/d.png")
    rows = found.dataset("test")
    assert rows.features["label"].names == ["cat", "dog", "emu"]
    assert rows["label"][:] == [1, 2]
    assert found.inputs(["test"]) == ["test/dog/c.png", "test/emu/d.png"]


@pytest.mark.parametrize("paths", [["cat/a.png"], ["cat/a.png", "dog/b.png", "c.png"]])
def test_one_folder_or_images_beside_folders_make_no_classes(tmp_path, paths):
    assert "label" not in folder(tmp_path, *paths).dataset("train").features


def test_splits_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"out of \['train'\], but got \['test'\]"):
        folder(tmp_path, "a.png").check_splits(["test"])


def test_links_out_of_the_folder_are_problems_and_stop_who_reads_rows(tmp_path):
    put(tmp_path / "private.png", PNG)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "private.png")
    found = folder(tmp_path / "in", "a.png")
    assert list(found.problems) == ["link.png"]
    with pytest.raises(ValueError, match=r"link\.png: it is a link out of the folder"):
        found.dataset("train")
    assert not ImageFolder.scan(tmp_path / "in", follow_links=True).problems


def test_folders_that_link_to_each_other_have_an_end(tmp_path):
    folder(tmp_path, "a/x.png", "b/y.png")
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    assert ImageFolder.scan(tmp_path).images == ("a/b/y.png", "a/x.png", "b/a/x.png", "b/y.png")


def test_what_cannot_be_described_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither"):
        folder(tmp_path, "notes.txt")
    put(tmp_path / "purified.jsonl/a.png", PNG)
    with pytest.raises(ValueError, match="manifest has that name"):
        ImageFolder.scan(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither"):
        ImageFolder.scan(tmp_path)

"""Some images of a folder, with their rows of the metadata, as a copy of their own."""

from __future__ import annotations

import csv

import pytest

from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.folder_plan import plan_folder
from puregen_transforms.whole_sets.part_by_part import purify_copy
from puregen_transforms.whole_sets.selection import select_images
from puregen_transforms.whole_sets.treatment import ALL_KEPT
from tests.cli.files import encoded, picture, put, tree


@pytest.fixture
def source(tmp_path):
    names = ["a.png", "b.png", "other/c.png"]
    for row, name in enumerate(names):
        put(tmp_path / "in" / name, encoded(picture(row)))
    put(tmp_path / "in/metadata.csv", "file_name,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    put(tmp_path / "in/notes.txt", "notes")
    return tmp_path / "in"


def test_files_names_and_rows_are_those_of_the_images(source, tmp_path):
    planned = FolderCopy(source=source, plan=plan_folder(ImageFolder.scan(source), treatment=ALL_KEPT))
    chosen = select_images(planned, ["b.png", "other/c.png"])
    assert chosen.images == 2
    purify_copy(chosen, tmp_path / "out", None)
    assert tree(tmp_path / "out") == ["b.png", "metadata.csv", "other/c.png"]
    assert (tmp_path / "out/b.png").read_bytes() == (source / "b.png").read_bytes()
    with (tmp_path / "out/metadata.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["b", "o"]


def test_folders_without_a_chosen_image_are_not_made(source):
    planned = FolderCopy(source=source, plan=plan_folder(ImageFolder.scan(source), treatment=ALL_KEPT))
    assert select_images(planned, ["a.png"]).plan.folders == ()
    assert planned.images == 3, "the plan it comes from stays"

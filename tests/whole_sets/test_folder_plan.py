"""What becomes of each file of a folder of images is known before any pixel is read."""

from __future__ import annotations

import pytest

from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.whole_sets.folder_plan import folders_of, notes_of, plan_folder
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.treatment import ALL_KEPT, FOLDER, Treatment
from tests.cli.files import encoded, picture, put

FILES = {
    "cat/a.png": encoded(picture(0)),
    "cat/b.jpg": encoded(picture(1), "JPEG"),
    "dog/b.png": encoded(picture(2)),
    "dog/b.jpg": encoded(picture(3), "JPEG"),
    "dog/drawn.gif": encoded(picture(4).quantize(8), "GIF", save_all=True, append_images=[picture(5).quantize(8)]),
    "notes.txt": b"notes",
}


@pytest.fixture
def source(tmp_path):
    for name, data in FILES.items():
        put(tmp_path / name, data)
    return ImageFolder.scan(tmp_path)


def test_lossy_formats_become_png_under_names_that_stay_apart(source):
    plan = plan_folder(source)
    assert plan.targets == {
        "cat/a.png": "cat/a.png",
        "cat/b.jpg": "cat/b.png",
        "dog/b.png": "dog/b.png",
        "dog/b.jpg": "dog/b.jpg.png",
    }
    assert plan.others == ("notes.txt",)
    assert [problem.place["file"] for problem in plan.problems] == ["dog/drawn.gif"]
    notes = " ".join(notes_of(plan, dropped={"cat/a.png", "cat/b.jpg"}))
    assert "2 images were written as .png, under a new name" in notes
    assert "1 of them kept the old suffix too, as in dog/b.jpg.png" in notes
    assert "No image is left in cat" in notes


def test_what_is_kept_is_not_opened_unless_it_may_be_converted(source):
    plan = plan_folder(source, treatment=ALL_KEPT)
    assert plan.kept == set(FILES) - {"notes.txt"}
    assert not plan.formats
    plan = plan_folder(source, treatment=ALL_KEPT, storage=Storage(convert=True))
    assert plan.converted == {"dog/drawn.gif"}
    assert plan.formats == {"dog/drawn.gif": "PNG"}
    assert plan.targets["dog/drawn.gif"] == "dog/drawn.png"
    assert plan.targets["cat/b.jpg"] == "cat/b.jpg"


def test_what_is_left_out_takes_its_empty_folder_with_it(source):
    gone = Treatment(left_out={FOLDER: {"cat/a.png": "poison", "cat/b.jpg": "poison"}}, purified={})
    plan = plan_folder(source, treatment=gone)
    assert plan.left_out == {"cat/a.png": "poison", "cat/b.jpg": "poison"}
    assert plan.folders == ("dog",)
    assert plan.problems == ()


def test_splits_that_are_not_there_are_refused(source):
    with pytest.raises(ValueError, match="but got"):
        plan_folder(source, splits=["test"])


def test_folders_at_any_depth():
    assert folders_of(["a/b/c.png", "d.png"]) == {"a/b", "a", "."}

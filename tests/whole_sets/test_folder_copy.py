"""A copy of image files."""

from __future__ import annotations

import pytest

from puregen_transforms import purify_dataset
from puregen_transforms.data.image_folder import ImageFolder
from puregen_transforms.whole_sets.folder_copy import FolderCopy
from puregen_transforms.whole_sets.folder_plan import plan_folder
from puregen_transforms.whole_sets.summary import UnreadableImageError
from tests.cli.files import encoded, picture, put


def test_changed_metadata_of_a_folder_are_noticed(pictures, purifier, tmp_path):
    (tmp_path / "in").mkdir()
    pictures[0].save(tmp_path / "in/0.png")
    (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,1\n")
    purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")
    (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,2\n")
    with pytest.raises(FileExistsError, match="other files was"):
        purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")


@pytest.fixture
def planned(tmp_path):
    for row, data in enumerate([encoded(picture(0)), encoded(picture(1), "JPEG"), b"no image"]):
        put(tmp_path / f"in/{row}.png", data)
    return FolderCopy(source=tmp_path / "in", plan=plan_folder(ImageFolder.scan(tmp_path / "in")))


def test_what_is_known_before_the_work(planned):
    assert (planned.images, planned.to_purify) == (3, 2)
    assert planned.row_pixels() == [16 * 12]
    assert planned.stored_bytes() > 0
    parts = list(planned.cut(2).parts_of(0, 1, lambda name: None))
    assert [(part.name, part.start, part.stop) for part in parts] == [("00000", 0, 2), ("00001", 2, 3)]
    assert [part.name for part in planned.cut(1).parts_of(1, 2, lambda name: None)] == ["00001"]


def test_images_are_given_out_decoded_and_broken_ones_by_name(planned):
    assert len(list(planned.pictures(skip=True))) == 2
    with pytest.raises(UnreadableImageError, match=r"2\.png"):
        list(planned.pictures(skip=False))


def test_a_digest_changes_with_the_bytes_of_its_own_part(planned):
    cut = planned.cut(2)
    first, second = cut.parts_of(0, 1, lambda name: None)
    before = cut.source_digest(first), cut.source_digest(second)
    put(planned.source / "0.png", encoded(picture(7)))
    assert cut.source_digest(first) != before[0]
    assert cut.source_digest(second) == before[1]


def test_other_names_are_another_source(planned):
    (planned.source / "0.png").rename(planned.source / "4.png")
    other = FolderCopy(source=planned.source, plan=plan_folder(ImageFolder.scan(planned.source)))
    assert other.describe()["names of the images"] != planned.describe()["names of the images"]

"""The images of a column by row, each checked."""

from __future__ import annotations

import hashlib

import pytest
from datasets import Dataset, Features, Image

from puregen_transforms.data.pictures import Pictures, cropped_to
from tests.cli.files import encoded, opened, picture, same
from tests.data.memory import LISTED, resident

PALETTE = encoded(picture(2).quantize(8))


def pictures(*data, mode=None, **options):
    cells = [None if one is None else {"bytes": one, "path": "a.png"} for one in data]
    rows = Dataset.from_dict({"image": cells}, features=Features({"image": Image(mode=mode)}))
    return Pictures(rows, "image", **options)


def test_images_by_row_and_by_slice_with_none_where_there_is_none():
    found = pictures(encoded(picture(0)), None, encoded(picture(1)))
    assert len(found) == 3
    assert found[1] is None
    assert same(found[-1], picture(1))
    assert [image is None for image in found[:2]] == [False, True]


def test_images_one_after_the_other_are_those_by_row():
    found = pictures(*(encoded(picture(number)) for number in range(20)), None, b"no image")
    one_by_one = iter(found)
    assert all(same(next(one_by_one), found[row]) for row in range(20))
    assert next(one_by_one) is None
    with pytest.raises(ValueError, match="not so row 21"):
        next(one_by_one)


def test_what_was_read_of_a_mapped_file_is_let_go_of(tmp_path):
    cells = [{"bytes": encoded(picture(number)), "path": None} for number in range(3)]
    Dataset.from_dict({"image": cells}, features=Features({"image": Image()})).save_to_disk(tmp_path / "saved")
    found = Pictures(Dataset.load_from_disk(tmp_path / "saved"), "image")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    if not LISTED.exists():
        pytest.skip("memory is listed on Linux alone")
    before = list(found)
    assert resident(arrow) > 0
    found.release()
    assert resident(arrow) == 0
    assert all(same(one, again) for one, again in zip(before, found, strict=True))


def test_the_type_of_the_column_asks_for_a_mode():
    assert pictures(encoded(picture(0)), mode="L")[0].mode == "L"


def test_what_cannot_be_read_is_named_by_its_row():
    found = pictures(encoded(picture(0)), b"no image", PALETTE)
    with pytest.raises(ValueError, match=r"not so row 1, a\.png: it is no image"):
        found[1]
    with pytest.raises(ValueError, match=r"row 2.*--convert"):
        found[2]
    assert same(pictures(PALETTE, convert=True)[0], opened(PALETTE).convert("RGB"))


def test_what_is_stored_is_hashed_as_it_is():
    found = pictures(PALETTE, None)
    assert found.digest_of(0) == hashlib.sha256(PALETTE).hexdigest()
    assert found.digest_of(1) is None
    assert (found.name_of(0), found.name_of(1)) == ("a.png", None)


@pytest.mark.parametrize("size", [(16, 12), (12, 16), (8, 8), (3, 100)])
def test_cropping_covers_the_square(size):
    assert cropped_to(picture(0, size), 8).size == (8, 8)
    assert cropped_to("no image", 8) == "no image"

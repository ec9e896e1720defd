"""Formats and names that purified images are stored under."""

from __future__ import annotations

import io

import pytest

from puregen_transforms.data.images import ImageProblemError
from puregen_transforms.whole_sets.storage import LOSSLESS, Storage
from tests.cli.files import encoded, opened, picture, same

PNG, JPEG = encoded(picture(0)), encoded(picture(1), "JPEG")
CLEAR = encoded(picture(2, mode="RGBA"))
PALETTE = encoded(picture(3).quantize(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_format": "gif"}, "Expected a format out of png, jpeg, webp"),
        ({"keep_names": True, "image_format": "png"}, "but got both"),
        ({"quality": 90}, "but got it alone"),
        ({"image_format": "webp", "quality": 90}, "but got it alone"),
        ({"keep_names": True, "quality": 0}, "from 1 to 100"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Storage(**options)


@pytest.mark.parametrize(
    "storage", [LOSSLESS, Storage(convert=True), Storage(keep_names=True), Storage(image_format="jpeg", quality=90)]
)
def test_a_record_comes_back(storage):
    assert Storage.from_dict(storage.to_dict()).to_dict() == storage.to_dict()
    assert bool(storage.described()) is (storage != LOSSLESS)
    with pytest.raises(ValueError, match="how images are stored"):
        Storage.from_dict({"colour": 1})


def test_the_usual_quality_is_recorded():
    assert Storage(image_format="jpeg").to_dict() == {"image_format": "jpeg", "quality": 95}


@pytest.mark.parametrize(
    ("storage", "path", "data", "image_format", "name"),
    [
        (LOSSLESS, "a.png", PNG, "PNG", "a.png"),
        (LOSSLESS, "a.jpg", JPEG, "PNG", "a.png"),
        (LOSSLESS, "a", JPEG, "PNG", "a.png"),
        (LOSSLESS, "a.TIF", encoded(picture(0), "TIFF"), "TIFF", "a.TIF"),
        (LOSSLESS, "v1.5", JPEG, "PNG", "v1.5.png"),
        (Storage(keep_names=True), "a.jpg", JPEG, "JPEG", "a.jpg"),
        (Storage(keep_names=True), "a.jpg", PNG, "JPEG", "a.jpg"),
        (Storage(keep_names=True), "a", JPEG, "JPEG", "a"),
        (Storage(image_format="jpeg"), "a.jpeg", JPEG, "JPEG", "a.jpeg"),
        (Storage(image_format="webp"), "a.png", CLEAR, "WEBP", "a.webp"),
        (Storage(convert=True), "a.gif", PALETTE, "PNG", "a.png"),
    ],
)
def test_formats_and_names(storage, path, data, image_format, name):
    assert storage.format_of(path, io.BytesIO(data)) == image_format
    assert storage.name_of(path, image_format) == name


@pytest.mark.parametrize(
    ("storage", "path", "data", "message"),
    [
        (Storage(image_format="jpeg"), "a.png", CLEAR, "cannot hold transparency"),
        (Storage(image_format="webp"), "a.png", encoded(picture(0, mode="L")), "cannot hold images in gray"),
        (Storage(keep_names=True), "a.gif", PNG, "but not as .gif"),
        (Storage(image_format="webp"), "a.png", encoded(picture(0, (16_384, 1))), "at most 16,383 pixels in a row"),
        (LOSSLESS, "a.png", PALETTE, "mode 'P'"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(storage, path, data, message):
    with pytest.raises(ImageProblemError, match=message):
        storage.format_of(path, io.BytesIO(data))


def test_what_is_converted_fits():
    storage = Storage(convert=True, image_format="jpeg")
    assert storage.fitted(opened(CLEAR), "JPEG").mode == "RGB"
    assert same(storage.fitted(picture(0), "JPEG"), picture(0))
    assert storage.format_of("a.png", io.BytesIO(CLEAR)) == "JPEG"


def test_only_what_would_be_refused_is_stored_anew():
    assert Storage(convert=True).stores_anew(io.BytesIO(PALETTE))
    assert not Storage(convert=True).stores_anew(io.BytesIO(PNG))
    assert not LOSSLESS.stores_anew(io.BytesIO(PALETTE))


@pytest.mark.parametrize(
    ("storage", "name", "image_format", "expected"),
    [
        (LOSSLESS, "a.jpg", "PNG", "a.png"),
        (LOSSLESS, "dir/a", "PNG", "dir/a.png"),
        (Storage(keep_names=True), "a.jpg", "JPEG", "a.jpg"),
        (Storage(image_format="jpeg"), "a.JPEG", "JPEG", "a.JPEG"),
    ],
)
def test_names_in_tables(storage, name, image_format, expected):
    assert storage.name_in_table(name, image_format) == expected

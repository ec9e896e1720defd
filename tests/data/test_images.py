"""Single images: what is decoded, converted, refused, and stored again."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from puregen_transforms.data.images import (
    LOSSLESS_SETTINGS,
    MODES,
    ImageProblemError,
    decode,
    decode_input,
    encode,
    is_converted,
    largest_of,
    look_at,
    looks_like_image,
    pixels_of,
    read_header,
)
from tests.cli.files import encoded, opened, picture, same

DEEP = encoded(PIL.Image.fromarray(np.full((12, 16), 30_000, np.uint16)))
PALETTE = encoded(picture(0).quantize(16))
MOVING = encoded(picture(0), save_all=True, append_images=[picture(1)])
CMYK = encoded(picture(0, mode="CMYK"), "JPEG")


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("a.JPG", b"", True),
        ("a", b"\x89PNG\r\n\x1a\n", True),
        ("a.dat", b"RIFF1234WEBPVP8 ", True),
        ("a.wav", b"RIFF1234WAVEfmt ", False),
        ("a.txt", b"text", False),
        ("png", b"", False),
    ],
)
def test_images_are_known_by_name_or_first_bytes(name, start, expected):
    assert looks_like_image(name, start) is expected


@pytest.mark.parametrize("mode", MODES)
def test_what_is_stored_without_loss_comes_back(mode):
    image = picture(0, mode=mode)
    for kind in ("PNG", "TIFF", "TGA"):
        assert same(decode(encode(image, image_format=kind)), image)
    assert set(LOSSLESS_SETTINGS) >= {"PNG", "TIFF", "TGA"}


@pytest.mark.parametrize("data", [PALETTE, MOVING, CMYK], ids=["palette", "animation", "cmyk"])
def test_images_are_converted_as_torchvision_does_only_on_demand(data):
    assert is_converted(io.BytesIO(data))
    with pytest.raises(ImageProblemError, match="--convert"):
        decode_input(data)
    with pytest.raises(ImageProblemError, match="--convert"):
        read_header(io.BytesIO(data))
    assert same(decode_input(data, convert=True), opened(data).convert("RGB"))
    assert read_header(io.BytesIO(data), convert=True).mode == "RGB"


@pytest.mark.parametrize(
    "data",
    [encoded(picture(0)), encoded(picture(0, mode="LA")), encoded(picture(0).quantize(16), "GIF"), DEEP],
    ids=["RGB", "LA", "still GIF", "16 bits"],
)
def test_all_others_are_not_converted(data):
    assert not is_converted(io.BytesIO(data))


def test_deep_images_are_refused_in_any_case():
    for convert in (False, True):
        with pytest.raises(ImageProblemError, match="16-bit"):
            decode_input(DEEP, convert=convert)


def test_an_image_is_turned_upright_and_a_clear_color_becomes_transparency():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(picture(0), exif=exif)).size == (12, 16)
    clear = decode(encoded(picture(0), transparency=picture(0).getpixel((0, 0))))
    assert clear.mode == "RGBA"
    assert clear.getpixel((0, 0))[3] == 0


def test_a_limit_is_held_against_the_header():
    data = encoded(picture(0))
    assert pixels_of(io.BytesIO(data)) == 16 * 12
    with pytest.raises(ImageProblemError, match="at most 100 pixels, but it has 16x12"):
        decode(data, largest=100)


def one_color(width, height):
    PIL.Image.new("1", (width, height)).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_large_images_are_taken_if_their_file_is_as_large_as_that_of_a_photograph():
    flat = one_color(2400, 2000)
    assert len(flat) < 10_000
    with pytest.raises(ImageProblemError, match="for the size of its file, but it has 2400x2000"):
        decode(flat)
    with pytest.raises(ImageProblemError, match="for the size of its file"):
        pixels_of(io.BytesIO(flat))
    assert decode(flat.ljust(1_080_000, b"\0")).size == (2400, 2000)
    assert largest_of(2**20) == 2048**2
    assert largest_of(1_400_000) > 12_000_000, "a photograph of 12 megapixels has a megabyte and a half"
    assert largest_of(3_000_000) > 24_000_000, "a photograph of 24 megapixels has three megabytes and more"
    with pytest.raises(ImageProblemError, match="at most 33,554,432 pixels"):
        pixels_of(io.BytesIO(one_color(8000, 4200).ljust(10_000_000, b"\0")))


@pytest.mark.parametrize("data", [b"", b"no image", encoded(picture(0))[:60], b"%!PS-Adobe-3.0"])
def test_no_image_is_a_problem_of_one_kind(data):
    for read in (decode, look_at, lambda data: read_header(io.BytesIO(data)) and decode(data)):
        with pytest.raises(ImageProblemError):
            read(data)


def test_a_header_tells_format_size_and_loss():
    header = read_header(io.BytesIO(encoded(picture(0), "WEBP", lossless=True)))
    assert (header.image_format, header.mode, header.size, header.is_lossless) == ("WEBP", "RGB", (16, 12), True)
    assert not read_header(io.BytesIO(encoded(picture(0), "WEBP"))).is_lossless
    assert not read_header(io.BytesIO(encoded(picture(0), "JPEG"))).is_lossless

"""Decode and encode single images, and tell their formats and sizes."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from puregen_transforms._limits import LARGEST_IMAGE

Purify = Callable[[list[Image.Image]], list[Image.Image]]
"""PIL images in, as many repaired PIL images out, of the same modes and sizes."""

ORIENTATION = ExifTags.Base.Orientation

_SUFFIXES = """
    .apng .avif .avifs .blp .bmp .bw .cur .dcx .dds .dib .emf .eps .fit .fits .flc .fli .ftc .ftu .gbr .gif .heic
    .heif .icb .icns .ico .iim .im .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .jxl .msp .mpo .pbm .pcd
    .pcx .pfm .pgm .png .pnm .ppm .ps .psd .pxr .qoi .ras .rgb .rgba .sgi .tga .tif .tiff .vda .vst .webp .wmf
    .xbm .xpm
"""
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split())
"""Endings taken for images, whether or not Pillow can read them: an unread image must not be copied as it is."""

SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")
"""First bytes of the formats recognized under any name."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "TGA", "AVIF")
"""Formats that are decoded. Pillow goes by content, whatever a file is called, and knows others that are programs
(PostScript, which it has Ghostscript run) or that hardly anybody stores pictures in, with decoders to match."""

LARGEST_LOOKED_AT = 2**26
"""Pixels of one image that is only looked at, or resized first: larger ones fill the memory out of a small file."""

MODES = ("RGB", "L", "RGBA", "LA")
"""Modes that can be purified: color or gray of 8 bits, with transparency or without."""

LOSSLESS_SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "DIB": {},
    "PPM": {},
    "TGA": {},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    # Without `exact`, the colors under transparent pixels change.
    "WEBP": {"lossless": True, "exact": True},
}
"""Formats that keep every pixel, with the settings of Pillow that make them do so."""


class ImageProblemError(ValueError):
    """One image that cannot be repaired; the message says why, without naming the image."""


def looks_like_image(name: str, first_bytes: bytes) -> bool:
    """Tell whether a file is to be treated as an image, going by its name and its first 16 bytes."""
    suffix = "." + name.rpartition(".")[2].lower() if "." in name else ""
    riff_webp = first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"WEBP"
    return suffix in IMAGE_SUFFIXES or first_bytes.startswith(SIGNATURES) or riff_webp


def lossless_format(file: BinaryIO) -> str:
    """Choose the format to write an image back in: its own where that is lossless, else "PNG".

    Only the header is read.

    Raises:
        ImageProblemError: no image in one of `FORMATS`, one of more than `LARGEST_IMAGE` pixels, one with several
            frames, or of a mode that cannot be purified.
    """
    image = _open(file, largest=LARGEST_IMAGE)
    _check_frames(image)
    if image.format != "GIF":
        _check_mode(image)
    known = image.format if image.format in LOSSLESS_SETTINGS else "PNG"
    if known == "WEBP" and not _webp_is_lossless(file):
        return "PNG"
    if known in ("BMP", "DIB") and image.mode == "RGBA":  # Pillow writes these without their transparency
        return "PNG"
    return str(known)


def pixels_of(file: BinaryIO) -> int:
    """Count the pixels of an image, by its header.

    Raises:
        ImageProblemError: no image in one of `FORMATS`, one of more than `LARGEST_IMAGE` pixels, or with several
            frames.
    """
    image = _open(file, largest=LARGEST_IMAGE)
    _check_frames(image)
    return int(image.width * image.height)


def decode(data: bytes, *, mode: str | None = None, largest: int = LARGEST_IMAGE) -> Image.Image:
    """Decode one image as `datasets` does: upright, according to its EXIF orientation.

    A GIF becomes RGB or RGBA, or L if it is gray: its palette could not hold repaired colors. A color that stands for
    transparency becomes an alpha channel.

    Args:
        data: the file.
        mode: converts to this one, which a column may ask for.
        largest: number of pixels.

    Raises:
        ImageProblemError: bytes that are no image in one of `FORMATS`, a truncated image, one of more pixels, or one
            with several frames.
    """
    opened = _open(BytesIO(data), largest=largest)
    _check_frames(opened)
    kind, image = opened.format, _pixels(opened)
    try:
        if mode is not None and mode != image.mode:
            return image.convert(mode)
        if kind == "GIF" and image.mode == "P":
            return image.convert("RGBA" if "transparency" in image.info else "RGB")
        if image.mode in ("RGB", "L") and "transparency" in image.info:
            return image.convert("RGBA" if image.mode == "RGB" else "LA")
    except Exception as error:  # As in `_open`.
        raise ImageProblemError(f"it cannot be decoded ({_in_words(error)})") from error
    return image


def decode_input(data: bytes, *, mode: str | None = None, largest: int = LARGEST_IMAGE) -> Image.Image:
    """Decode one image that is to be purified, or read for training.

    Args:
        data: the file.
        mode: converts to this one, which a column may ask for.
        largest: number of pixels.

    Raises:
        ImageProblemError: as `decode`, or an image of a mode that cannot be purified.
    """
    image = decode(data, mode=mode, largest=largest)
    _check_mode(image)
    return image


def look_at(data: bytes) -> Image.Image:
    """Decode one image that is stored as it is to be seen: upright, in any mode; of several frames, the first.

    Raises:
        ImageProblemError: bytes that are no image in one of `FORMATS`, a truncated image, or one of more than
            `LARGEST_LOOKED_AT` pixels.
    """
    return _pixels(_open(BytesIO(data), largest=LARGEST_LOOKED_AT))


def _check_mode(image: Image.Image) -> None:
    if image.mode not in MODES:
        scaling = ", scaling its 16-bit values to 8 bits yourself" if image.mode.startswith(("I", "F")) else ""
        raise ImageProblemError(
            f"expected an image of mode {', '.join(MODES)}, but it has mode {image.mode!r}; convert it with "
            f'.convert("RGB") first{scaling}'
        )


def encode(image: Image.Image, *, image_format: str = "PNG", color_profile: bytes | None = None) -> bytes:
    """Encode without loss.

    Args:
        image: the picture.
        image_format: one of `LOSSLESS_SETTINGS`.
        color_profile: ICC profile to keep, where the format can.
    """
    buffer = BytesIO()
    settings = dict(LOSSLESS_SETTINGS[image_format])
    if color_profile and image_format in ("PNG", "TIFF", "WEBP"):
        settings["icc_profile"] = color_profile
    image.save(buffer, format=image_format, **settings)
    return buffer.getvalue()


def _open(file: BinaryIO, *, largest: int) -> Image.Image:
    """Read the header only, and hold its size against the limit before any pixel is decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
    except UnidentifiedImageError as error:
        raise ImageProblemError(f"it is no image in a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes.
        raise ImageProblemError(f"its header cannot be read ({_in_words(error)})") from error
    if width * height > largest:
        raise ImageProblemError(
            f"expected at most {largest:,} pixels, but it has {width}x{height}; resize it to the size you train on "
            "first, or cut it into tiles"
        )
    return image


def _check_frames(image: Image.Image) -> None:
    try:
        # Cameras append previews to a JPEG ("MPO"); every decoder shows its first picture only.
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as error:  # As in `_open`.
        raise ImageProblemError(f"its header cannot be read ({_in_words(error)})") from error
    if frames > 1:
        raise ImageProblemError(f"expected a single picture, but it has {frames} frames; save each as its own image")


def _pixels(image: Image.Image) -> Image.Image:
    """Decode the pixels, and turn them upright."""
    try:
        image.load()
        if image.getexif().get(ORIENTATION) is not None:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # As in `_open`.
        raise ImageProblemError(f"it cannot be decoded ({_in_words(error)})") from error
    return image


def _webp_is_lossless(file: BinaryIO) -> bool:
    """Tell whether the picture chunk of a WebP file is the lossless one, VP8L."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        if header[:4] in (b"VP8L", b"VP8 "):
            return header[:4] == b"VP8L"
        length = int.from_bytes(header[4:], "little")
        file.seek(length + length % 2, 1)
    return False


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__

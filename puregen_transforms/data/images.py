"""Decode and encode single images, and tell their formats and sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import SEEK_END, BytesIO
from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from puregen_transforms._limits import LARGEST_IMAGE, LARGEST_PHOTOGRAPH

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

FIRST_BYTES, PIXELS_PER_BYTE = 2**20, 24
"""A file of so many bytes may hold an ordinary image, and for each byte more so many pixels more. A photograph of 12
megapixels has a megabyte and a half; one color all over has kilobytes, and would fill the memory out of nothing."""

LARGEST_LOOKED_AT = 2**26
"""Pixels of one image that is only looked at, or resized first: larger ones fill the memory out of a small file."""

MODES = ("RGB", "L", "RGBA", "LA")
"""Modes that can be purified: color or gray of 8 bits, with transparency or without."""

CONVERTED = ("1", "P", "PA", "CMYK", "YCbCr", "LAB")
"""Modes that become RGB where that is asked for. Those of 16 bits and more do not: Pillow makes most of them white."""

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


def largest_of(file_size: int) -> int:
    """Count the pixels that an image in a file of so many bytes may have, to be worked on in full."""
    return min(LARGEST_PHOTOGRAPH, LARGEST_IMAGE + PIXELS_PER_BYTE * max(0, file_size - FIRST_BYTES))


def looks_like_image(name: str, first_bytes: bytes) -> bool:
    """Tell whether a file is to be treated as an image, going by its name and its first 16 bytes."""
    suffix = "." + name.rpartition(".")[2].lower() if "." in name else ""
    riff_webp = first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"WEBP"
    return suffix in IMAGE_SUFFIXES or first_bytes.startswith(SIGNATURES) or riff_webp


@dataclass(frozen=True, kw_only=True)
class Header:
    """Format, mode and size of an image, as its header has them.

    Args:
        image_format: that it is stored in, as Pillow names it.
        mode: that it is purified in.
        size: width and height in pixels.
        is_lossless: whether the format keeps every pixel; of a TIFF, whether it can.
    """

    image_format: str
    mode: str
    size: tuple[int, int]
    is_lossless: bool


def read_header(file: BinaryIO, *, largest: int | None = None, convert: bool = False) -> Header:
    """Read the header of an image that is to be purified.

    Args:
        file: of the image.
        largest: number of pixels; None goes by the file, see `largest_of`.
        convert: see `decode`.

    Raises:
        ImageProblemError: no image in one of `FORMATS`, one of more pixels, one with several frames, or of a mode that
            cannot be purified.
    """
    image = _open(file, largest=largest)
    several = _has_frames(image, allowed=convert)
    mode = _wanted_mode(image, image.format, several=several, convert=convert)
    _check_mode(mode)
    is_lossless = image.format in LOSSLESS_SETTINGS and (image.format != "WEBP" or _webp_is_lossless(file))
    return Header(image_format=str(image.format), mode=mode, size=image.size, is_lossless=is_lossless)


def is_converted(file: BinaryIO) -> bool:
    """Tell by its header whether an image is refused unless it is converted; see `decode`.

    Raises:
        ImageProblemError: no image in one of `FORMATS`, or one of more than `LARGEST_LOOKED_AT` pixels.
    """
    image = _open(file, largest=LARGEST_LOOKED_AT)
    return _becomes_rgb(image, image.format, several=_has_frames(image, allowed=True))


def pixels_of(file: BinaryIO, *, convert: bool = False) -> int:
    """Count the pixels of an image, by its header.

    Args:
        file: of the image.
        convert: see `decode`.

    Raises:
        ImageProblemError: no image in one of `FORMATS`, one with too many pixels for its file, or with several
            frames.
    """
    image = _open(file, largest=None)
    _has_frames(image, allowed=convert)
    return int(image.width * image.height)


def decode(data: bytes, *, mode: str | None = None, largest: int | None = None, convert: bool = False) -> Image.Image:
    """Decode one image as `datasets` does: upright, according to its EXIF orientation.

    A GIF becomes RGB or RGBA, or L if it is gray: its palette could not hold repaired colors. A color that stands for
    transparency becomes an alpha channel.

    Args:
        data: the file.
        mode: converts to this one, which a column may ask for.
        largest: number of pixels; None goes by the file, see `largest_of`.
        convert: read the first of several frames, and give out that, and the modes `CONVERTED`, in RGB.

    Raises:
        ImageProblemError: bytes that are no image in one of `FORMATS`, a truncated image, one of more pixels, or one
            with several frames.
    """
    opened = _open(BytesIO(data), largest=largest)
    several = _has_frames(opened, allowed=convert)
    kind, image = opened.format, _pixels(opened)
    try:
        if mode is not None and mode != image.mode:
            return image.convert(mode)
        wanted = _wanted_mode(image, kind, several=several, convert=convert)
        if wanted != image.mode:
            return as_rgb(image) if wanted == "RGB" else image.convert(wanted)
    except Exception as error:  # As in `_open`.
        raise ImageProblemError(f"it cannot be decoded ({_in_words(error)})") from error
    return image


def _wanted_mode(image: Image.Image, kind: str | None, *, several: bool, convert: bool) -> str:
    """Tell the mode that an image is given out in, by its header.

    Args:
        image: opened.
        kind: its format.
        several: whether there are several frames.
        convert: see `decode`.
    """
    if convert and _becomes_rgb(image, kind, several=several):
        return "RGB"
    if kind == "GIF" and image.mode == "P":
        return "RGBA" if "transparency" in image.info else "RGB"
    if image.mode in ("RGB", "L") and "transparency" in image.info:
        return "RGBA" if image.mode == "RGB" else "LA"
    return str(image.mode)


def _becomes_rgb(image: Image.Image, kind: str | None, *, several: bool) -> bool:
    """Tell whether conversion changes an image: it is an animation, or of a mode that cannot be purified."""
    return (several and image.mode in MODES) or (image.mode in CONVERTED and (several or kind != "GIF"))


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert as torchvision's `ImageFolder` does, without transparency; a color profile stays where it is of RGB."""
    image.info.pop("transparency", None)  # Pillow would warn
    converted = image.convert("RGB")
    if (converted.info.get("icc_profile") or b"")[16:20] != b"RGB ":
        converted.info.pop("icc_profile", None)
    return converted


def decode_input(
    data: bytes, *, mode: str | None = None, largest: int | None = None, convert: bool = False
) -> Image.Image:
    """Decode one image that is to be purified, or read for training.

    Args:
        data: the file.
        mode: converts to this one, which a column may ask for.
        largest: number of pixels; None goes by the file, see `largest_of`.
        convert: see `decode`.

    Raises:
        ImageProblemError: as `decode`, or an image of a mode that cannot be purified.
    """
    image = decode(data, mode=mode, largest=largest, convert=convert)
    _check_mode(image.mode)
    return image


def look_at(data: bytes) -> Image.Image:
    """Decode one image that is stored as it is to be seen: upright, in any mode; of several frames, the first.

    Raises:
        ImageProblemError: bytes that are no image in one of `FORMATS`, a truncated image, or one of more than
            `LARGEST_LOOKED_AT` pixels.
    """
    return _pixels(_open(BytesIO(data), largest=LARGEST_LOOKED_AT))


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        scaling = ", scaling its 16-bit values to 8 bits yourself" if mode.startswith(("I", "F")) else ""
        scaling = " (--convert does)" if mode in CONVERTED else scaling
        raise ImageProblemError(
            f"expected an image of mode {', '.join(MODES)}, but it has mode {mode!r}; convert it with "
            f'.convert("RGB") first{scaling}'
        )


def encode(
    image: Image.Image, *, image_format: str = "PNG", color_profile: bytes | None = None, quality: int = 95
) -> bytes:
    """Encode without loss, or as JPEG with colors at full resolution.

    Args:
        image: the picture.
        image_format: one of `LOSSLESS_SETTINGS`, or "JPEG".
        color_profile: ICC profile to keep, where the format can.
        quality: of JPEG.
    """
    buffer = BytesIO()
    settings: dict[str, Any] = {"quality": quality, "subsampling": 0}
    if image_format != "JPEG":
        settings = dict(LOSSLESS_SETTINGS[image_format])
    if color_profile and image_format in ("PNG", "TIFF", "WEBP", "JPEG"):
        settings["icc_profile"] = color_profile
    image.save(buffer, format=image_format, **settings)
    return buffer.getvalue()


def _open(file: BinaryIO, *, largest: int | None) -> Image.Image:
    """Read the header only, and hold its size against the limit before any pixel is decoded."""
    by_file = largest is None
    largest = largest_of(file.seek(0, SEEK_END)) if largest is None else largest
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
        width, height = image.size
    except UnidentifiedImageError as error:
        raise ImageProblemError(f"it is no image in a format that is read ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's readers raise almost anything on damaged bytes.
        raise ImageProblemError(f"its header cannot be read ({_in_words(error)})") from error
    if width * height > largest:
        raise ImageProblemError(
            f"expected at most {largest:,} pixels{' for the size of its file' if by_file else ''}, but it has "
            f"{width}x{height}; resize it to the size you train on first, or cut it into tiles"
        )
    return image


def _has_frames(image: Image.Image, *, allowed: bool) -> bool:
    """Tell whether there are several frames, which are refused unless allowed."""
    try:
        # Cameras append previews to a JPEG ("MPO"); every decoder shows its first picture only.
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as error:  # As in `_open`.
        raise ImageProblemError(f"its header cannot be read ({_in_words(error)})") from error
    if frames > 1 and not allowed:
        raise ImageProblemError(
            f"expected a single picture, but it has {frames} frames; save each as its own "
            "image, or take the first (--convert)"
        )
    return frames > 1


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

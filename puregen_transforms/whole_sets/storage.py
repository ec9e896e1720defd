"""Choose what is read of an image, and the format and the name that its purified picture is stored under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from PIL import Image

from puregen_transforms.data.images import (
    IMAGE_SUFFIXES,
    MODES,
    ImageProblemError,
    as_rgb,
    encode,
    is_converted,
    read_header,
)

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
"""Formats that may be asked for, and their names in Pillow."""

QUALITY = 95
"""Default quality of JPEG."""

HELD = {
    "JPEG": (("RGB", "L"), 65_500),
    "PNG": (MODES, 2**31 - 1),
    "WEBP": (("RGB", "RGBA"), 16_383),
    "BMP": (("RGB", "L"), 2**31 - 1),  # Pillow writes these without their transparency
    "DIB": (("RGB", "L"), 2**31 - 1),
    "PPM": (("RGB", "L"), 2**31 - 1),
    "TGA": (MODES, 65_535),
    "TIFF": (MODES, 2**31 - 1),
}
"""Formats that purified images are stored in: the modes that come back from each, and the longest side, in pixels."""

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pnm"),
    "TGA": (".tga",),
}
"""Endings of names that stand for a format; the first is the usual one."""

_FORMAT_OF = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How the images of a copy are read and stored.

    Images are stored without loss unless a quality plays a part: in their own format where that is possible, else as
    PNG, under a name that fits.

    Args:
        convert: read an image that would be refused for its mode, its frames, or transparency that its format cannot
            hold as torchvision's `ImageFolder` does: its first frame, in RGB. (Images of 16 bits are refused all the
            same: they would become white.)
        keep_names: store every image under its own name, in the format that the name's ending says; JPEG loses detail.
        image_format: "png", "jpeg" or "webp" (without loss) for every image, with names to match.
        quality: of JPEG, 1 to 100; None is 95. Colors are stored at full resolution.

    Raises:
        ValueError: options that do not go together.
    """

    convert: bool = False
    keep_names: bool = False
    image_format: str | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.image_format not in (None, *FORMATS):
            raise ValueError(f"Expected a format out of {', '.join(FORMATS)}, but got {self.image_format!r}.")
        if self.keep_names and self.image_format:
            raise ValueError(
                "Expected names to be kept, or a format, but got both: the ending of a name says its format. Leave one "
                "of them out."
            )
        if self.quality is not None and not self.writes_jpeg:
            raise ValueError("Expected a quality with the format jpeg, or where names are kept, but got it alone.")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"Expected a quality from 1 to 100, but got {self.quality}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Storage:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: it is damaged.
        """
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Expected to read in the manifest how images are stored, but: {error}") from error

    @property
    def writes_jpeg(self) -> bool:
        """Whether a quality plays a part."""
        return self.keep_names or self.image_format == "jpeg"

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the default, JSON-ready; of JPEG, the quality in any case."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["quality"] = (self.quality or QUALITY) if self.writes_jpeg else None
        return {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}

    def described(self) -> dict[str, Any]:
        """Return what `DatasetCopy.describe` says of it: nothing by default."""
        return {"storage": found} if (found := self.to_dict()) else {}

    def stores_anew(self, file: BinaryIO) -> bool:
        """Tell whether an image that is not purified is stored as it is read, rather than byte for byte.

        Raises:
            ImageProblemError: it is no image that can be read.
        """
        return self.convert and is_converted(file)

    def format_of(self, path: str, file: BinaryIO, *, largest: int | None = None) -> str:
        """Choose the format of an image in a folder; of its file only the header is read.

        Args:
            path: of the image.
            file: of the image.
            largest: number of pixels; None goes by the file.

        Raises:
            ImageProblemError: the image cannot be purified, or not be stored in that format.
        """
        header = read_header(file, largest=largest, convert=self.convert)
        if self.image_format is None and not self.keep_names:
            is_own = header.is_lossless and header.mode in HELD[header.image_format][0]
            return header.image_format if is_own else "PNG"
        own = "JPEG" if header.image_format == "MPO" else header.image_format
        image_format = self.format_for(path, default=own if own in HELD else "PNG")
        _check_held(image_format, "RGB" if self.convert else header.mode, header.size)
        return image_format

    def format_for(self, name: str | None, *, default: str = "PNG") -> str:
        """Choose the format of an image by its name: one that is not written is found out by `fitted`.

        Args:
            name: a path, or what a table has in its place.
            default: for names that say nothing of a format.
        """
        if self.image_format is not None:
            return FORMATS[self.image_format]
        suffix = PurePosixPath(name or "").suffix.lower()
        if not self.keep_names or suffix not in IMAGE_SUFFIXES:
            return default
        return _FORMAT_OF.get(suffix, suffix)

    def fitted(self, image: Image.Image, image_format: str) -> Image.Image:
        """Return an image as the format can hold it.

        Raises:
            ImageProblemError: it cannot.
        """
        if self.convert and image.mode in MODES and image.mode not in HELD.get(image_format, (MODES, 0))[0]:
            image = as_rgb(image)
        _check_held(image_format, image.mode, image.size)
        return image

    def encode(self, image: Image.Image, image_format: str, *, color_profile: bytes | None = None) -> bytes:
        """Encode a purified image, with the color profile it had where the format has a place for it."""
        quality = self.quality or QUALITY
        return encode(image, image_format=image_format, color_profile=color_profile, quality=quality)

    def name_of(self, path: str, image_format: str) -> str:
        """Choose the path of an image in a folder, with an ending that fits its format."""
        pure, suffixes = PurePosixPath(path), _SUFFIXES[image_format]
        suffix = pure.suffix.lower()
        is_own = self.image_format is None and image_format != "PNG"
        if self.keep_names or is_own or suffix in suffixes:
            return path
        return str(pure.with_suffix(suffixes[0])) if suffix in IMAGE_SUFFIXES else path + suffixes[0]

    def note_of_names(self, count: int) -> str:
        """Say that so many images of a folder have another ending."""
        if self.image_format is None:
            return f"{count} images were written as .png, under a new name: their format loses detail."
        return f"{count} images were written as {_SUFFIXES[FORMATS[self.image_format]][0]}, under a new name."

    def name_in_table(self, name: str, image_format: str) -> str:
        """Choose the name that is stored with an image in a table, with an ending that fits its format."""
        pure, suffixes = PurePosixPath(name), _SUFFIXES[image_format]
        if self.keep_names or (self.image_format and pure.suffix.lower() in suffixes):
            return name
        return str(pure.with_suffix(suffixes[0]))


def _check_held(image_format: str, mode: str, size: tuple[int, int]) -> None:
    """Refuse an image that would come back otherwise from a format.

    Args:
        image_format: that it is to be stored in, as Pillow names it.
        mode: one of `MODES`.
        size: width and height in pixels.

    Raises:
        ImageProblemError: the format cannot hold it, or is none that is written.
    """
    if image_format not in HELD:
        raise ImageProblemError(
            f"purified images are stored as {', '.join(HELD)}, but not as {image_format}; convert it first"
        )
    modes, longest = HELD[image_format]
    if mode not in modes:
        what = "transparency" if mode == "RGBA" or image_format != "WEBP" else "images in gray"
        raise ImageProblemError(
            f"it has mode {mode!r}, and {image_format} cannot hold {what}; choose another format, or convert to RGB "
            "(--convert)"
        )
    if max(size) > longest:
        raise ImageProblemError(f"{image_format} holds at most {longest:,} pixels in a row, but it has {max(size):,}")


LOSSLESS = Storage()
"""How images are read and stored unless another way is asked for."""

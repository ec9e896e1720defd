"""Read pickles of images, numbers and arrays without handing a byte of them to the classes that they name.

A pickle calls what it names. Here it gets stand-ins, which note what they are given; only afterwards are images and
arrays made of that, by functions that check it: numpy's own types follow addresses that stand in a file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from puregen_transforms._files import is_regular

LARGEST_FILE = 2**30
"""Bytes; the published files have a hundredth of that."""

_MOST_OPERATIONS = 2**22

_TYPES = ("b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8")

_BANDS = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Bytes of a pixel, by the image's mode."""


def read_pickle(path: Path) -> Any:
    """Read a pickle of PIL images, numbers and numpy arrays in lists, tuples and dicts.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, too large, or holds anything else.
    """
    if path.exists() and (not is_regular(path) or path.stat().st_size > LARGEST_FILE):
        raise ValueError(f"Expected a pickle of at most {LARGEST_FILE} bytes, but {path} is none.")
    content = path.read_bytes()
    try:
        _count_operations(content)
        return _made(_Unpickler(io.BytesIO(content)).load())
    except Exception as error:  # a pickle can raise whatever it likes
        raise ValueError(f"Expected a pickle of images, numbers and arrays, but {path}: {error}.") from error


def _count_operations(content: bytes) -> None:
    """Refuse a pickle that is cut off, or promises more bytes than it has, before room is made for them."""
    for count, _ in enumerate(pickletools.genops(content)):
        if count > _MOST_OPERATIONS:
            raise ValueError(f"it has more than {_MOST_OPERATIONS} parts")


class _Noted:
    """What a pickle says of an object: what it is made with, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Image(_Noted):
    pass


class _Type(_Noted):
    pass


class _Array(_Noted):
    pass


class _Scalar(_Noted):
    pass


def _encode(text: str, encoding: str) -> bytes:
    """Give the bytes that old pickles store as text."""
    if encoding != "latin1":
        raise ValueError(f"it wants the encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("PIL.Image", "Image"): _Image,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not an image, a number or an array")
        return _STAND_INS[module, name]


def _made(value: Any) -> Any:
    """Make images, numbers and arrays of their stand-ins, in nested lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        return type(value)(_made(item) for item in value)
    if isinstance(value, dict):
        return {key: _made(item) for key, item in value.items()}
    for kind, make in ((_Image, _image), (_Array, _array), (_Scalar, _scalar)):
        if isinstance(value, kind):
            return make(value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise ValueError(f"it holds a {type(value).__name__}")


def _image(noted: _Noted) -> PIL.Image.Image:
    if not isinstance(noted.state, (list, tuple)) or len(noted.state) < 5:
        raise ValueError("it holds an image without pixels")
    _, mode, size, palette, data = noted.state[:5]
    if mode not in _BANDS:
        raise ValueError(f"it holds an image of mode {mode!r}, which is none of {', '.join(_BANDS)}")
    width, height = map(_whole, size)
    if not isinstance(data, bytes) or len(data) != width * height * _BANDS[mode]:
        raise ValueError(f"it holds an image whose bytes are not its {width}x{height} pixels")
    image = PIL.Image.frombytes(mode, (width, height), data)
    if mode == "P" and palette:
        image.putpalette(bytes(palette))
    return image


def _array(noted: _Noted) -> np.ndarray[Any, Any]:
    if not isinstance(noted.state, tuple) or len(noted.state) != 5:
        raise ValueError("it holds an array without content")
    _, shape, kind, is_fortran, data = noted.state
    sides = tuple(map(_whole, shape))
    values = _values(kind, data)
    return values.reshape(sides, order="F" if is_fortran else "C")


def _scalar(noted: _Noted) -> Any:
    kind, data = noted.arguments
    (value,) = _values(kind, data)
    return value.item()


def _values(kind: Any, data: Any) -> np.ndarray[Any, Any]:
    """Take bytes for numbers of a type, which is known by its name alone."""
    if not isinstance(kind, _Type) or not kind.arguments or kind.arguments[0] not in _TYPES:
        raise ValueError(f"it holds an array of something else than {', '.join(_TYPES)}")
    if not isinstance(data, bytes):
        raise ValueError("it holds an array whose content is no bytes")
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "|"
    return np.frombuffer(data, np.dtype(kind.arguments[0]).newbyteorder(">" if order == ">" else "<"))


def _whole(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"it holds a side of {str(number)[:20]}")
    return number

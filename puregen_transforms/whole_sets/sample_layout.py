"""How the samples of a torch data set look: their columns, and the form that each has in every sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from puregen_transforms._text import shown
from puregen_transforms.data.images import look_at
from puregen_transforms.functional.images import check_unit_range, rounded
from puregen_transforms.transforms.formats import has_image_shape
from puregen_transforms.whole_sets.plain_values import from_json, to_json

JSON = "json"
"""The form of a column whose values no column of a table holds as they are."""

_TYPES: dict[Any, str] = {bool: "bool", int: "int64", float: "float64", str: "string"}

_LISTS = ("names", "forms", "inputs")
_KINDS = ("tuple", "list", "dict", "image")
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that a sample is made of, and the form of each.

    Args:
        kind: "tuple", "list", "dict", or "image" for an image alone.
        names: columns, in the sample's order; of a dict, its keys.
        forms: of each column, as `form_of` gives it, or "json".
        inputs: columns of the images to purify.
    """

    kind: str
    names: tuple[str, ...]
    forms: tuple[str, ...]
    inputs: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record."""
        return {
            "kind": self.kind,
            **{name: list(getattr(self, name)) for name in _LISTS},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: values of another kind.
        """
        found = values if isinstance(values, Mapping) else {}
        kind, (names, forms, inputs) = found.get("kind"), (_words(found.get(name)) for name in _LISTS)
        if (
            kind in _KINDS
            and names
            and len(names) == len(forms)
            and all(map(_is_form, forms))
            and {*inputs} <= {*names}
        ):
            return cls(kind=kind, names=names, forms=forms, inputs=inputs)
        raise ValueError(f"Expected the layout of a sample, but got {shown(repr(values))[:200]}.")

    def stored(self, sample: Any, row: int) -> list[Any]:
        """Take a sample apart, into one value for each column of a table.

        Raises:
            ValueError: it does not look like the others; names the row and what differs.
        """
        values = values_of(sample, self.kind, self.names, row)
        found = []
        for name, form, value in zip(self.names, self.forms, values, strict=True):
            if form != JSON and value is not None and form_of(value, name in self.inputs) != form:
                raise _unlike(row, name, form, value)
            found.append(_stored(value, form, row))
        return found

    def sample(self, stored: Sequence[Any]) -> Any:
        """Put a sample together from the values of a row, its images as they are stored."""
        values = [_restored(value, form) for value, form in zip(stored, self.forms, strict=True)]
        if self.kind == "image":
            return values[0]
        if self.kind == "dict":
            return dict(zip(self.names, values, strict=True))
        return list(values) if self.kind == "list" else tuple(values)


def _words(value: Any) -> tuple[str, ...]:
    """Return a list of texts; nothing for anything else."""
    is_right = isinstance(value, list) and all(isinstance(word, str) for word in value)
    return tuple(value) if is_right else ()


def values_of(sample: Any, kind: str, names: Sequence[str], row: int) -> list[Any]:
    """Take a sample apart.

    Raises:
        ValueError: it has other parts than the first.
    """
    if kind == "image":
        return [sample]
    if kind == "dict" and isinstance(sample, Mapping):
        if set(sample) != set(names):
            differing = sorted(map(str, set(sample) ^ set(names)))
            raise ValueError(
                f"Expected samples with the keys {list(names)} of the first, but sample {row} differs in {differing}. "
                "Give None for what a sample lacks."
            )
        return [sample[name] for name in names]
    if kind != "dict" and isinstance(sample, (tuple, list)) and len(sample) == len(names):
        return list(sample)
    found = f"a {type(sample).__name__}" + (f" of {len(sample)} parts" if hasattr(sample, "__len__") else "")
    raise ValueError(f"Expected samples that are a {kind} of {len(names)} parts like the first, but {row} is {found}.")


def form_of(value: Any, is_input: bool) -> str:
    """Name the type of a value, so that the same can be made of what a table holds; "json" where none holds it.

    Args:
        value: a part of a sample.
        is_input: whether it is an image to purify.
    """
    if isinstance(value, PILImage.Image):
        return "pil"
    if is_input:
        return _form_of_image(value)
    if type(value) in _TYPES:
        fits = not isinstance(value, int) or -(2**63) <= value < 2**63
        return _TYPES[type(value)] if fits and not _has_surrogates(value) else JSON
    if type(value) is list:
        inside = {form_of(item, False) for item in value}
        return f"list {inside.pop()}" if len(inside) == 1 and inside <= {*_TYPES.values()} else JSON
    if type(value) is Tensor and value.ndim <= 1 and value.dtype in _TENSOR_TYPES:
        return f"tensor {value.ndim} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, np.generic) and value.dtype.name in _NUMBER_TYPES:
        return f"number {value.dtype.name}"
    return JSON


_TENSOR_TYPES = {getattr(torch, name): name for name in ("bool", "uint8", "int8", "int16", "int32", "int64")} | {
    torch.float32: "float32",
    torch.float64: "float64",
}
_NUMBER_TYPES = {*_TENSOR_TYPES.values(), "uint16", "uint32"}
_IMAGE_TYPES = ("uint8", "float16", "bfloat16", "float32", "float64")


def _form_of_image(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.ndim == 3 and has_image_shape(value):
        return "array"
    if isinstance(value, Tensor) and value.ndim == 3 and has_image_shape(value):
        tv = "tv " if isinstance(value, tv_tensors.Image) else ""
        return f"{tv}{str(value.dtype).removeprefix('torch.')} image"
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    raise ValueError(f"Expected single images in a sample, but got {type(value).__name__}{shape}.")


def _is_form(form: str) -> bool:
    """Tell whether `form_of` could have given this: a record may have been changed."""
    if form in ("pil", "array", JSON, *_TYPES.values()):
        return True
    kind, *rest = form.split() or [""]
    if kind in ("list", "number"):
        return len(rest) == 1 and rest[0] in (_TYPES.values() if kind == "list" else _NUMBER_TYPES)
    if kind == "tensor":
        return len(rest) == 2 and rest[0] in ("0", "1") and rest[1] in _TENSOR_TYPES.values()
    return form.removeprefix("tv ").removesuffix(" image") in _IMAGE_TYPES and form.endswith(" image")


def is_image_form(form: str) -> bool:
    """Tell whether a column of this form holds images."""
    return form in ("pil", "array") or form.endswith(" image")


def feature_of(form: str, classes: Sequence[str] | None) -> Any:
    """Give the type of a column of a table; labels get the names of their classes."""
    if is_image_form(form):
        return Image()
    if form == JSON:
        return Value("string")
    kind, *rest = form.split()
    if kind == "list":
        return List(Value(rest[0]))
    if kind == "tensor" and rest[0] == "1":
        return List(Value(rest[1]))
    if classes is not None:
        return ClassLabel(names=list(classes))
    return Value(rest[-1] if rest else kind)


def merged_form(forms: Iterable[str]) -> str:
    """Find one form for all values of a column, or "json" where they are of several.

    Raises:
        ValueError: images, of several forms or beside something else.
    """
    found = set(forms)
    if len(found) == 1:
        return found.pop()
    if images := sorted(form for form in found if is_image_form(form)):
        raise ValueError(f"got {images[0]} and {sorted(found - {images[0]})[0]}")
    return JSON


def check_storable(value: Any, name: str) -> None:
    """Raise ValueError for a value that cannot be written."""
    try:
        to_json(value)
    except TypeError as error:
        raise ValueError(
            f"Expected samples of images, numbers, texts, tensors, and lists of these, but got a {error} as {name!r}, "
            "which a table cannot hold. Give out only what can be stored."
        ) from error


def _has_surrogates(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _unlike(row: int, name: str, form: str, value: Any) -> ValueError:
    return ValueError(
        f"Expected {name!r} as {form} in every sample, as when they were looked at first, but sample {row} has "
        f"{type(value).__name__}."
    )


def _stored(value: Any, form: str, row: int) -> Any:
    if form == JSON:
        return to_json(value)
    if value is None:
        return None
    if is_image_form(form):
        return {"bytes": encoded_image(value, row), "path": None}
    return value.tolist() if isinstance(value, (Tensor, np.generic)) else value


def encoded_image(value: Any, row: int) -> bytes:
    """Encode an image without loss, and without the work of compressing: it is decoded again at once.

    Raises:
        ValueError: floats outside [0, 1].
    """
    image = value
    if isinstance(value, Tensor):
        try:
            if value.is_floating_point():
                check_unit_range(value)
            image = F.to_pil_image(rounded(value.as_subclass(Tensor)))
        except ValueError as error:
            raise ValueError(f"{error} (image of sample {row})") from error
    elif isinstance(value, np.ndarray):
        image = PILImage.fromarray(value.squeeze(-1) if value.shape[-1] == 1 else value)
    if image.mode == "P":  # Pillow changes indices beyond a short palette
        image = image.copy()
        image.putpalette([*(image.getpalette() or []), *[0] * 768][:768])
    buffer = BytesIO()
    if image.mode in _PNG_MODES:
        image.save(buffer, "PNG", compress_level=0)
    else:  # PNG would change these
        image.save(buffer, "TIFF")
    return buffer.getvalue()


def _restored(value: Any, form: str) -> Any:
    if form == JSON:
        return from_json(value)
    if value is None:
        return value
    if is_image_form(form):
        return _restored_image(look_at(value["bytes"]), form)
    kind, *rest = form.split()
    if kind == "tensor":
        return torch.tensor(value, dtype=getattr(torch, rest[1]))
    return np.dtype(rest[0]).type(value) if kind == "number" else value


def _restored_image(image: Any, form: str) -> Any:
    if form == "pil":
        return image
    if form == "array":
        pixels = np.array(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels
    *tv, name, _ = form.split()
    tensor, dtype = F.pil_to_tensor(image), getattr(torch, name)
    if dtype != torch.uint8:
        tensor = tensor.to(torch.promote_types(dtype, torch.float32)).div_(255).to(dtype)
    return tv_tensors.Image(tensor) if tv else tensor


def features_of(layout: Layout, classes: Sequence[str] | None) -> Features:
    """Give the types of the columns of a table of such samples."""
    named = {"label": classes} if classes is not None else {}
    return Features(
        {name: feature_of(form, named.get(name)) for name, form in zip(layout.names, layout.forms, strict=True)}
    )

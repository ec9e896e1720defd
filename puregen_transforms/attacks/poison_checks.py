"""Check that a poison is one, whoever has written it: the kinds, shapes and ranges of all that is in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from puregen_transforms._text import shown

if TYPE_CHECKING:
    from puregen_transforms.attacks.poison import Poison


def check_values(poison: Poison) -> None:
    """Refuse values of another kind than a poison's.

    Raises:
        ValueError: lists all of them.
    """
    if wrong := [*_wrong_tensors(poison), *_wrong_numbers(poison)]:
        raise ValueError(f"Expected a poison, but got {'; '.join(wrong)}.")


def _wrong_tensors(poison: Poison) -> Iterator[str]:
    classes = len(poison.class_names)
    for name, dtype, sides in (
        ("ids", torch.int64, (None,)),
        ("labels", torch.int64, (None,)),
        ("covers", torch.bool, (None,)),
        ("images", torch.uint8, (None, 3, None, None)),
        ("target_images", torch.uint8, (None, 3, None, None)),
        ("target_labels", torch.int64, (None,)),
    ):
        value = getattr(poison, name)
        if value is None and name.startswith("target_"):
            continue
        if not isinstance(value, Tensor) or value.dtype != dtype or not _fits(value, sides):
            about = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            yield f"`{name}` of {about}, not {dtype}"
        elif name.endswith("labels") and value.numel() and not _are_classes(value, classes):
            yield f"`{name}` from {int(value.min())} to {int(value.max())}, of {classes or 'unknown'} classes"
    if (poison.target_images is None) != (poison.target_labels is None):
        yield "`target_images` without `target_labels`, or the other way"
    elif len({len(found) for found in (poison.target_images, poison.target_labels) if isinstance(found, Tensor)}) > 1:
        yield "not as many `target_labels` as `target_images`"


def _fits(value: Tensor, sides: tuple[int | None, ...]) -> bool:
    return value.ndim == len(sides) and all(side in (None, own) for own, side in zip(value.shape, sides, strict=True))


def _are_classes(labels: Tensor, classes: int) -> bool:
    return int(labels.min()) >= 0 and (not classes or int(labels.max()) < classes)


def _wrong_numbers(poison: Poison) -> Iterator[str]:
    right = {
        "attack": isinstance(poison.attack, str),
        "originals": _are_texts(poison.originals),
        "class_names": _are_texts(poison.class_names),
        "seed": _is_whole(poison.seed),
        "set_rows": _is_whole(poison.set_rows) and poison.set_rows >= 0,
        "target_class": poison.target_class is None or _is_class(poison.target_class, len(poison.class_names)),
        "source_class": poison.source_class is None or _is_class(poison.source_class, len(poison.class_names)),
        "budget": poison.budget is None or (_is_number(poison.budget) and poison.budget >= 0),
        "recipe": isinstance(poison.recipe, Mapping),
        "versions": isinstance(poison.versions, Mapping),
    }
    classes = f", not a class below {len(poison.class_names)}" if poison.class_names else ", not a class"
    for name in (name for name, is_right in right.items() if not is_right):
        yield f"`{name}` {shown(repr(getattr(poison, name)))[:80]}" + (classes if name.endswith("_class") else "")


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_class(value: object, classes: int) -> bool:
    return isinstance(value, int) and _is_whole(value) and value >= 0 and (not classes or value < classes)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

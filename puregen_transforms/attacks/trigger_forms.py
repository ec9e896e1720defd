"""Build a trigger from its form and parts, as they are on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from puregen_transforms.attacks.network_triggers import Encoded, Generated
from puregen_transforms.attacks.trigger import Added, Aligned, Blended, Trigger, Warped

_FORMS: dict[str, Callable[..., Trigger]] = {
    Added.form: Added,
    Blended.form: Blended,
    Aligned.form: Aligned,
    Warped.form: Warped,
    Generated.form: Generated.of_parts,
    Encoded.form: Encoded.of_parts,
}


_SHAPES: Mapping[str, tuple[int | None, ...]] = {
    "pattern": (3, None, None),
    "image": (3, None, None),
    "opacity": (1, None, None),
    "direction": (3, None, None),
    "grid": (None, None, 2),
    "secret": (3, None, None),
}
"""Sides of the tensors that are no network's; None is any."""


def to_trigger(form: str, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trigger:
    """Build the trigger of which these are `form`, `numbers()` and `tensors()`.

    Raises:
        ValueError: an unknown form, or parts that are not its own.
    """
    if form not in _FORMS:
        raise ValueError(f"Expected a trigger of the form {', '.join(_FORMS)}, but got {form!r}.")
    parts: dict[str, Any] = {**numbers, **tensors}
    wrong = [name for name, value in numbers.items() if not _is_number(value)]
    wrong += [name for name, value in tensors.items() if not _is_sound(value, _SHAPES.get(name))]
    if wrong:
        raise ValueError(f"Expected the parts of a trigger of the form {form!r}, but {', '.join(wrong)} are none.")
    try:
        return _FORMS[form](**parts)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"Expected the parts of a trigger of the form {form!r}, but got {list(parts)}.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_sound(tensor: Tensor, shape: tuple[int | None, ...] | None) -> bool:
    """Tell whether a tensor has finite values, and the shape that is expected of it."""
    if not bool(tensor.isfinite().all()):
        return False
    if shape is None:
        return True
    sides = zip(tensor.shape, shape, strict=False)
    return tensor.is_floating_point() and tensor.ndim == len(shape) and all(b in (None, a) for a, b in sides)

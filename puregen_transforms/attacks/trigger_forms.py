"""Build a trigger from its form and parts, as they are on disk."""

from __future__ import annotations

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


def to_trigger(form: str, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trigger:
    """Build the trigger of which these are `form`, `numbers()` and `tensors()`.

    Raises:
        ValueError: an unknown form, or parts that are not its own.
    """
    if form not in _FORMS:
        raise ValueError(f"Expected a trigger of the form {', '.join(_FORMS)}, but got {form!r}.")
    parts: dict[str, Any] = {**numbers, **tensors}
    try:
        return _FORMS[form](**parts)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"Expected the parts of a trigger of the form {form!r}, but got {list(parts)}.") from error

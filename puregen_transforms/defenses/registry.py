"""Every training defense by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puregen_transforms.defenses.corruption import CorruptionCompensation
from puregen_transforms.defenses.epic import Epic
from puregen_transforms.defenses.friends import Friends
from puregen_transforms.defenses.training_defense import Hooked, TrainingDefense

TRAINING_DEFENSES: dict[str, Callable[..., TrainingDefense]] = {
    "none": Hooked,
    "friends": Friends,
    "epic": Epic,
    "corruption_compensation": CorruptionCompensation,
}


def build_training_defense(name: str, **settings: Any) -> TrainingDefense:
    """Make a training defense with its settings.

    Raises:
        ValueError: no such defense or setting, or a value out of range.
    """
    if name not in TRAINING_DEFENSES:
        raise ValueError(f"Expected a training defense out of {', '.join(TRAINING_DEFENSES)}, but got {name!r}.")
    made = TRAINING_DEFENSES[name]
    known = getattr(made, "__dataclass_fields__", {})
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"Expected settings of {name!r} out of {', '.join(known) or 'none'}, but got {', '.join(unknown)}."
        )
    return made(**settings)

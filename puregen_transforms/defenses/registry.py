"""Every training defense by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from puregen_transforms.defenses.abl import AntiBackdoorLearning
from puregen_transforms.defenses.bit_depth import BitDepthReduction
from puregen_transforms.defenses.checked_compensation import CheckedCompensation
from puregen_transforms.defenses.corruption import CorruptionCompensation
from puregen_transforms.defenses.epic import Epic
from puregen_transforms.defenses.friends import Friends
from puregen_transforms.defenses.training_defense import Hooked, TrainingDefense
from puregen_transforms.defenses.ueraser import UEraser
from puregen_transforms.defenses.victim_beneficiary import VictimBeneficiary

TRAINING_DEFENSES: dict[str, Callable[..., TrainingDefense]] = {
    "none": Hooked,
    "friends": Friends,
    "epic": Epic,
    "corruption_compensation": CorruptionCompensation,
    "checked_compensation": CheckedCompensation,
    "bit_depth_reduction": BitDepthReduction,
    "ueraser": UEraser,
    "victim_beneficiary": VictimBeneficiary,
    "abl": AntiBackdoorLearning,
}


def build_training_defense(name: str, *, preset: str | None = None, **settings: Any) -> TrainingDefense:
    """Make a training defense with its settings.

    Args:
        name: in `TRAINING_DEFENSES`.
        preset: settings to begin with, for defenses that have some (`TrainingDefense.presets`); None are the defaults.
        settings: fields of its class.

    Raises:
        ValueError: no such defense, preset or setting, or a value out of range.
    """
    if name not in TRAINING_DEFENSES:
        raise ValueError(f"Expected a training defense out of {', '.join(TRAINING_DEFENSES)}, but got {name!r}.")
    made = TRAINING_DEFENSES[name]
    known = getattr(made, "__dataclass_fields__", {})
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"Expected settings of {name!r} out of {', '.join(known) or 'none'}, but got {', '.join(unknown)}."
        )
    presets = getattr(made, "presets", {})
    if preset is not None and preset not in presets:
        known_presets = f"out of {', '.join(presets)}" if presets else "of another defense, as this has none"
        raise ValueError(f"Expected a preset {known_presets}, but got {preset!r} for {name!r}.")
    return made(**{**(presets[preset] if preset else {}), **settings})

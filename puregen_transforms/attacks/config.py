"""Settings that all attacks have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from puregen_transforms.attacks.aims import ALL_TO_ONE, check_goal

PRESETS = ("smoke", "cpu", "paper")
OF_ALL = ("jitter", "reencode")
"""Settings that vary any attack."""

VARIATIONS = ("goal", *OF_ALL)
"""Settings that vary a published attack, and that its recipe names only where they do."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Settings of an attack; the defaults are the published ones.

    Args:
        target_class: name or index of the class that images are to be misread as; None for attacks on all classes.
        rate: poisoned rows, as a share of the training set.
        jitter: most pixels by which a trigger is moved down or up, and right or left, drawn for each row of the
            training set; at test time it is in its place. For triggers that are added or blended in at one place.
        reencode: quality of JPEG, 1 to 100, with which changed rows of the training set are compressed, so that their
            pixels are those of a JPEG file; it spends the budget. None is no compression.
    """

    target_class: str | int | None = 0
    rate: float = 0.003
    jitter: int = 0
    reencode: int | None = None

    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {}}
    """Settings that differ from the defaults, by preset: "smoke" (seconds), "cpu" (2 cores), "paper"."""

    def __post_init__(self) -> None:
        for name in ("rate", "cover_rate"):
            value = getattr(self, name, 0.5)
            if not 0 < value <= 1:
                raise ValueError(f"Expected `{name}` between 0 and 1, but got {value}.")
        for name in ("epsilon", "strength", "opacity", "radius"):
            value = getattr(self, name, 1)
            if not value > 0:
                raise ValueError(f"Expected `{name}` above 0, but got {value}: nothing would be changed.")

        if not isinstance(self.jitter, int) or self.jitter < 0:
            raise ValueError(f"Expected `jitter` in whole pixels, 0 or more, but got {self.jitter}.")
        if self.reencode is not None and not (isinstance(self.reencode, int) and 1 <= self.reencode <= 100):
            raise ValueError(f"Expected `reencode`, a quality of JPEG, between 1 and 100, but got {self.reencode}.")

    @property
    def goal(self) -> str:
        """Name what triggered images are to be taken for, out of `GOALS`."""
        return ALL_TO_ONE

    @property
    def knows_defense(self) -> bool:
        """Tell whether the attacker uses the energy network of the defense."""
        return False

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """Make the settings of a preset, some of them replaced.

        Raises:
            ValueError: an unknown preset or setting, or a value out of range.
        """
        if name not in PRESETS:
            raise ValueError(f"Expected a preset out of {', '.join(PRESETS)}, but got {name!r}.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise ValueError(f"Expected settings out of {', '.join(sorted(known))}, but got {', '.join(unknown)}.")
        return cls(**{**cls.presets.get(name, {}), **settings})

    def to_dict(self) -> dict[str, Any]:
        """Give all settings, JSON-ready; variations that are off are left out."""
        off = {field.name: field.default for field in fields(self) if field.name in VARIATIONS}
        return {name: value for name, value in asdict(self).items() if name not in off or value != off[name]}


@dataclass(frozen=True, kw_only=True)
class AvailabilityConfig(AttackConfig):
    """Settings of an attack on all that is learned: images become unlearnable, every label stays true.

    Args:
        target_class: None; no class is aimed at.
        rate: poisoned rows, as a share of the training set; by default all, as published.
    """

    target_class: None = None
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GoalConfig(AttackConfig):
    """Settings of an attack that relabels, whose triggered images can be taken for more than one class.

    Args:
        goal: "all_to_one", as published; "all_to_all": each image is to be taken for the class after its own;
            "untargeted": for any class but its own. The target class is then None.
    """

    goal: str = ALL_TO_ONE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_goal(self.goal)
        if self.goal != ALL_TO_ONE:
            object.__setattr__(self, "target_class", None)


@dataclass(frozen=True, kw_only=True)
class TriggerlessConfig(AttackConfig):
    """Settings of a triggerless attack: one target image, outside the training set and unmodified, is to be misread.

    Args:
        source_class: name or index of the target image's true class.
        target_index: which image of that class, counted in the set of targets.
    """

    source_class: str | int = 1
    target_index: int = 0

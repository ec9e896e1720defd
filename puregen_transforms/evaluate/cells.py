"""Cells of a benchmark: an attack against a victim behind a defense, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from puregen_transforms.evaluate.portable import portable

SCENARIOS = ("scratch", "linear", "fine_tune", "frozen")


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """An attack with all its settings.

    Args:
        name: of the attack, "none" for no poison.
        settings: of its config, every one.
        group: heading of its column in tables: attacks of one group differ in their target alone and are averaged.
        known: whether an attacker on transfer has the very extractor that the victim starts from.
    """

    name: str = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str = "no attack"
    known: bool = False


@dataclass(frozen=True, kw_only=True)
class Component:
    """A detector or a training defense with its settings.

    Args:
        name: in its registry.
        settings: all that differ from its defaults.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DefenseSpec:
    """A defense, put together from parts; without any, none.

    Args:
        name: its row in tables.
        detect: detectors; what any of them flags is flagged.
        purify_flagged: options of `PureGen` to purify flagged images with; None leaves them out of training.
        keep_flagged: whether flagged images stay in the set, treated as all others are: so that the detectors alone are
            judged, or for a training defense that makes use of the flags.
        purify_others: the same for all other images; None leaves them as they are.
        train: the training defense; None trains as usual.
    """

    name: str = "none"
    detect: Sequence[Component] = ()
    purify_flagged: Mapping[str, Any] | None = None
    keep_flagged: bool = False
    purify_others: Mapping[str, Any] | None = None
    train: Component | None = None

    def __post_init__(self) -> None:
        if self.keep_flagged and self.purify_flagged is not None:
            raise ValueError("Expected flagged images to be kept as all others or purified on their own, but got both.")

    @property
    def acts(self) -> bool:
        """Whether there is any part."""
        parts = (self.purify_flagged, self.purify_others, self.train)
        return bool(self.detect) or any(part is not None for part in parts)


@dataclass(frozen=True, kw_only=True)
class VictimSpec:
    """A classifier and how it is trained.

    Args:
        classifier: see `build_classifier`; of a frozen network, see `frozen_features` of `frozen.py`.
        recipe: of training from scratch, also of the extractor for transfer; see `RECIPES` of `victims.py`.
        epochs: of it.
        scenario: "scratch"; "linear" or "fine_tune" for transfer of a network that was trained before; "frozen" for a
            linear layer on a network with public weights.
        transfer_epochs: of transfer.
    """

    classifier: str = "small"
    recipe: str = "fast"
    epochs: int = 12
    scenario: str = "scratch"
    transfer_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"Expected a scenario out of {', '.join(SCENARIOS)}, but got {self.scenario!r}.")

    @property
    def transfers(self) -> bool:
        """Whether it learns a small set of its own, on top of an extractor that is trained for it."""
        return self.scenario in ("linear", "fine_tune")

    @property
    def is_frozen(self) -> bool:
        """Whether it stands on a frozen network with public weights."""
        return self.scenario == "frozen"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack, one defense, one victim, one seed."""

    attack: AttackSpec = field(default_factory=AttackSpec)
    defense: DefenseSpec = field(default_factory=DefenseSpec)
    victim: VictimSpec = field(default_factory=VictimSpec)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, and the same wherever checkpoints lie; see `portable`."""
        return portable(asdict(self))

    @property
    def unpoisoned(self) -> Cell:
        """The same without attack and without defense."""
        return replace(self, attack=AttackSpec(), defense=DefenseSpec())

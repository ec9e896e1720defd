"""Which attacks photographs meet, on victims that two cores can train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import AttackSpec
from puregen_transforms.evaluate.grids import Grid, attack, pairs
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.rows import photograph_defenses

_ATTACKS = ("badnets", "blended", "sig", "wanet", "narcissus")

_TARGETS = 4
"""Target images of Bullseye Polytope at the preset "cpu"."""


def photographs(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of attacks whose attackers have the network with public weights that the victim stands on.

    The target is the largest class: clean-label attacks poison images of it alone.
    """
    train = bench.sets.train
    target = train.class_names[int(train.labels.bincount().argmax())]
    victim = replace(scale.victim, classifier=bench.backbone, scenario="frozen")
    return [
        Grid(victim, [*_triggers(scale, target), *_triggerless(scale, train.class_names)], photograph_defenses(scale))
    ]


def _triggers(scale: Scale, target: str) -> list[AttackSpec]:
    many: dict[str, Any] = {"rate": 0.1} if scale.name == "smoke" else {}
    own: dict[str, Any] = {"narcissus": {"rounds": 20 if scale.name == "smoke" else 200}}
    return [attack(name, scale.name, name, target_class=target, **many, **own.get(name, {})) for name in _ATTACKS]


def _triggerless(scale: Scale, classes: Sequence[str]) -> list[AttackSpec]:
    """Aim at single images, by base images moved in the features that the victim has."""
    smoke = scale.name == "smoke"
    count = {"smoke": 1, "cpu": _TARGETS}.get(scale.name, scale.targets)
    settings: dict[str, Any] = {"rate": 0.1 if smoke else 0.003, "iterations": 10 if smoke else 150}
    return [
        attack(
            "bullseye_polytope",
            scale.name,
            "bullseye_polytope",
            known=True,
            source_class=source,
            target_class=wanted,
            target_index=0 if smoke else index,
            **settings,
        )
        for index, (source, wanted) in enumerate(pairs(count, len(classes)))
    ]

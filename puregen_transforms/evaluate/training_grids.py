"""Which poisoned sets training defenses are measured on: The Victim and The Beneficiary, its parts, and its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import DefenseSpec
from puregen_transforms.evaluate.grids import Grid, attacks_by_group
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.rows import NO_DEFENSE, abl, every_detector, leave_out, vab

_ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "badnets": ("badnets", {"rate": 0.1}),
    "blended": ("blended", {"rate": 0.1}),
    "wanet": ("wanet", {"rate": 0.1}),
    "input_aware": ("input_aware", {"rate": 0.1}),
    "sig": ("sig", {}),
    "clean_label": ("clean_label", {}),
    "narcissus, ε 16": ("narcissus", {"epsilon": 16.0}),
    "flip (labels alone)": ("flip", {}),
}
"""Attacks by group, with settings. Dirty-label ones poison a tenth of the set, as in the authors' code; the others the
share of their preset: at "cpu" sig and clean_label poison 8 % of the set, four fifths of the target class, which
undefended victims obey (`results/attacks.json`)."""

_OF_SMOKE = ("badnets",)

_OF_PARTS = ("badnets", "blended")
"""Attacks that should tell parts of The Victim and The Beneficiary apart: in the authors' ablation, as others have it,
blended images pass the filter, and both come back where suspicious images are learned without suppression."""

_SPLITTER = "whole_search"
"""The detector that splits in place of the Victim. It is given no clean images."""


def training_defenses(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids: whole defenses on all attacks, then parts of The Victim and The Beneficiary on two of them.

    At the preset "cpu" a training of The Victim and The Beneficiary takes as long as ten plain ones, and fewer where a
    detector splits (nine) or parts are left out (seven to ten); one of ABL as long as three. Counted from single
    steps, all cells together take as long as 450 plain trainings of a minute on one core each, and nine whole searches
    of five minutes: five to six hours on two cores.
    """
    chosen = _OF_SMOKE if scale.name == "smoke" else tuple(_ATTACKS)
    about = {group: _ATTACKS[group] for group in chosen}
    attacks = attacks_by_group(about, scale, bench.sets.train.class_names)
    on_parts = [one for one in attacks if one.group in _OF_PARTS]
    return [Grid(scale.victim, attacks, _whole(scale)), Grid(scale.victim, on_parts, _parts(scale))]


def _whole(scale: Scale) -> Sequence[DefenseSpec]:
    detectors = every_detector(scale)[_SPLITTER]
    return [
        NO_DEFENSE,
        vab(scale),
        vab(scale, *detectors),
        vab(scale, purified=True),
        leave_out(_SPLITTER, detectors),
        abl(scale),
    ]


def _parts(scale: Scale) -> Sequence[DefenseSpec]:
    """List The Victim and The Beneficiary without some parts, with another scale of entropies, and with two helpers."""
    return [
        vab(scale, name="V&B, filter alone", suspicious="drop", mix_threshold=None),
        vab(scale, name="V&B, filter, AttentionMix", suspicious="drop"),
        vab(scale, name="V&B, filter, AttentionMix, semi-supervised", suspicious="relabel"),
        vab(scale, name="V&B, entropies scaled without their tails", entropy_tail=0.01),
        vab(scale, *every_detector(scale)[_SPLITTER], purified=True),
    ]

"""Which poisoned sets training defenses are measured on: The Victim and The Beneficiary, its parts, and its rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import AttackSpec, Cell, DefenseSpec
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

_CLOSE = 0.05
"""Two defenses whose success lies no further apart are told apart by a second victim."""


def training_defenses(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids, what tells most first: a run that ends early has whole columns of the first rows.

    First come rows that a good detector decides, then The Victim and The Beneficiary as published, ABL, parts of the
    former on two attacks, and purified images. Defenses that lie close together against an attack, in what is kept from
    a run before, get a second victim each, last of all.

    At the preset "cpu" a training of The Victim and The Beneficiary takes as long as nine plain ones, and three to four
    where a detector splits; one of ABL as long as four. On one core of an AMD EPYC with AVX-512 a plain training takes
    two minutes and a whole search three.
    """
    chosen = _OF_SMOKE if scale.name == "smoke" else tuple(_ATTACKS)
    about = {group: _ATTACKS[group] for group in chosen}
    attacks = attacks_by_group(about, scale, bench.sets.train.class_names)
    on_parts = [one for one in attacks if one.group in _OF_PARTS]
    detectors = every_detector(scale)[_SPLITTER]
    split, published, rival = vab(scale, *detectors), vab(scale), abl(scale)
    relabeled = vab(scale, *detectors, name=f"{split.name}, flagged learned whatever their class", suspicious="relabel")
    whole = [
        [NO_DEFENSE, leave_out(_SPLITTER, detectors), split, relabeled],
        [published],
        [rival],
        [vab(scale, purified=True)],
    ]
    first, parts = [Grid(scale.victim, attacks, rows) for rows in whole], Grid(scale.victim, on_parts, _parts(scale))
    compared = [one for rows in whole for one in rows if one.acts and one is not relabeled]
    return [*first[:3], parts, *first[3:], *_second_victims(scale, bench, attacks, compared)]


def _second_victims(
    scale: Scale, bench: Bench, attacks: Sequence[AttackSpec], defenses: Sequence[DefenseSpec]
) -> list[Grid]:
    """Choose, for each attack, the defenses whose success lies close to that of another one, as far as it is kept."""
    grids: list[Grid] = []
    for attack in attacks:
        cells = [Cell(attack=attack, defense=defense, victim=scale.victim) for defense in defenses]
        found = {cell.defense.name: bench.evaluate(cell)["success"] for cell in cells if bench.is_kept(cell)}
        names = {first for first, second in permutations(found, 2) if abs(found[first] - found[second]) <= _CLOSE}
        close = [defense for defense in defenses if defense.name in names]
        grids += [Grid(scale.victim, [attack], close, seeds=2)] if close else []
    return grids


def _parts(scale: Scale) -> Sequence[DefenseSpec]:
    """List The Victim and The Beneficiary without some parts, with another scale of entropies, and with two helpers."""
    detectors = every_detector(scale)[_SPLITTER]
    by_detector = f"V&B, split by {_SPLITTER}"
    return [
        vab(scale, *detectors, name=f"{by_detector}, learned as published", as_published=True),
        vab(scale, *detectors, name=f"{by_detector}, flagged never learned", suspicious="drop"),
        vab(scale, *detectors, name=f"{by_detector}, with AttentionMix", mix_threshold=0.1),
        vab(scale, name="V&B, filter alone", suspicious="drop", mix_threshold=None),
        vab(scale, name="V&B, filter, AttentionMix", suspicious="drop"),
        vab(scale, name="V&B, filter, AttentionMix, semi-supervised", suspicious="relabel"),
        vab(scale, name="V&B, entropies scaled without their tails", entropy_tail=0.01),
        vab(scale, *detectors, purified=True),
    ]

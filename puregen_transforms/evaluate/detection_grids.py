"""Which poisoned sets every detector is measured on, and what is learned from what they leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puregen_transforms.detection.detector import Detector
from puregen_transforms.detection.registry import build_detector
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import AttackSpec, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.grids import Grid, attacks_by_group
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.rows import NO_DEFENSE, every_detector, leave_out, only_detect

_ATTACKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "label noise": ("label_noise", {}),
    "badnets": ("badnets", {}),
    "blended": ("blended", {}),
    "trojan": ("trojan", {}),
    "tact": ("tact", {}),
    "wanet": ("wanet", {}),
    "adaptive_blend": ("adaptive_blend", {}),
    "narcissus, ε 16": ("narcissus", {"epsilon": 16.0}),
    "badnets, all-to-all": ("badnets", {"goal": "all_to_all"}),
    "sig": ("sig", {}),
    "adaptive_patch": ("adaptive_patch", {}),
    "input_aware": ("input_aware", {}),
    "issba": ("issba", {}),
    "clean_label": ("clean_label", {}),
    "narcissus, ε 8": ("narcissus", {"epsilon": 8.0}),
    "badnets, untargeted": ("badnets", {"goal": "untargeted"}),
    "flip (labels alone)": ("flip", {}),
    "gcb (labels alone)": ("gcb", {}),
    "badnets and blended": ("mixed", {}),
    "gradient_matching": ("gradient_matching", {"source_class": 1}),
}
"""Attacks by group, with settings; no attack comes before them, and label noise is no attack."""

_OF_SMOKE = ("label noise", "trojan")

_SLOW = "confusion_training"
_SLOW_ONCE = ("label noise", "wanet", "adaptive_blend", "narcissus, ε 16", "badnets, all-to-all")
_SLOW_TWICE = ("badnets", "blended", "trojan", "tact")
"""On two cores Confusion Training has time for these alone; no attack comes before them."""


_LEFT_OUT = (
    "shared_patterns", "stamps", "patches", "residual_patterns", "stripes", "scan", "flare", "class_split",
    _SLOW, "whole_search",
)  # fmt: skip
"""On two cores there is time to train victims of what these leave: each flags hardly any image of a clean set."""

_OF_LARGER = ("badnets", "blended", "wanet")

_HIDDEN = ("label noise", "wanet", "input_aware", "flip (labels alone)", "gcb (labels alone)", "gradient_matching")
"""Attacks that no search for a shared trigger finds, and label noise: there clean images matter."""

_COMPARING = ("moved_labels", "class_split", "whole_search")
"""Detectors that compare with clean images if they have any, and do without otherwise."""

LARGER = VictimSpec(classifier="hlb", recipe="hlb", epochs=30)
"""Twice as many epochs as its recipe is made for."""


def detection(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids: victims, then detectors alone, then victims of what each detector leaves.

    What trains or reads a network is measured with two victims, seeds 0 and 1; victims of what is left have seed 0, and
    on two cores are trained for the detectors alone that flag hardly anything in clean sets.
    """
    chosen = _OF_SMOKE if scale.name == "smoke" else tuple(_ATTACKS)
    attacks = attacks_by_group({group: _ATTACKS[group] for group in chosen}, scale, bench.sets.train.class_names)
    by_group = {one.group: one for one in attacks}
    seeds = 1 if scale.name == "smoke" else 2
    count = len(bench.sets.train.class_names)
    rows = {
        name: detectors
        for name, detectors in every_detector(scale).items()
        if all(_built(one).least_classes <= count for one in detectors)
    }
    slow = {name: rows.pop(name) for name in (_SLOW,) if scale.name == "cpu"}
    random = {name for name, detectors in rows.items() if any(_depends_on_seed(_built(one)) for one in detectors)}

    def grid(attacks: Sequence[AttackSpec], defenses: Sequence[DefenseSpec], seeds: int) -> Grid:
        return Grid(scale.victim, attacks, defenses, seeds)

    found = [
        grid(attacks, [NO_DEFENSE], seeds),
        grid(attacks, [only_detect(name, rows[name]) for name in rows if name not in random], 1),
        grid(attacks, [only_detect(name, rows[name]) for name in rows if name in random], seeds),
    ]
    for name, detectors in slow.items():
        twice, once = (
            [by_group[group] for group in groups if group in by_group] for groups in (_SLOW_TWICE, _SLOW_ONCE)
        )
        found += [grid([*twice, *once], [only_detect(name, detectors)], 1)]
        found += [grid([*twice, *once], [leave_out(name, detectors)], 1)]
        found += [grid(twice, [only_detect(name, detectors)], seeds)]
    kept = [name for name in rows if name in _LEFT_OUT or scale.name != "cpu"]
    return [*found, grid(attacks, [leave_out(name, rows[name]) for name in kept], 1)]


def no_clean_images(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids of detectors that compare with clean images, where there are none, and of what they leave."""
    chosen = {"smoke": _OF_SMOKE, "cpu": _HIDDEN}.get(scale.name, tuple(_ATTACKS))
    classes = bench.sets.train.class_names
    attacks = attacks_by_group({group: _ATTACKS[group] for group in chosen}, scale, classes)
    rows = {
        name: detectors
        for name, detectors in every_detector(scale).items()
        if name in _COMPARING and all(_built(one).least_classes <= len(classes) for one in detectors)
    }
    left = leave_out("whole_search", rows["whole_search"])
    return [Grid(scale.victim, attacks, [NO_DEFENSE, *(only_detect(*row) for row in rows.items()), left])]


def larger_victim(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of what detectors read off a larger victim that learns longer, on three attacks and no poison.

    It tells the weakness of a detector from that of the small victim.
    """
    classes = bench.sets.train.class_names
    smoke = scale.name == "smoke"
    attacks = attacks_by_group(
        {group: _ATTACKS[group] for group in (_OF_SMOKE[1:] if smoke else _OF_LARGER)}, scale, classes
    )
    victim = scale.victim if smoke else LARGER
    rows = [
        only_detect(name, detectors)
        for name, detectors in every_detector(scale).items()
        if all("network" in (made := _built(one)).needs and made.least_classes <= len(classes) for one in detectors)
    ]
    return [Grid(victim, attacks, [NO_DEFENSE, *rows])]


def _built(component: Component) -> Detector:
    return build_detector(component.name, **component.settings)


def _depends_on_seed(detector: Detector) -> bool:
    """Tell whether a detector's result depends on the victim or on its own seed."""
    return "network" in detector.needs | detector.uses or bool(detector.presets)

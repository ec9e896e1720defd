"""Protocols that measure attacks alone, on victims without defense."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.evaluate.cells import AttackSpec

if TYPE_CHECKING:
    from puregen_transforms.evaluate.protocols import Protocol
    from puregen_transforms.evaluate.run import Bench

# Each function imports `protocols`, which registers them, when it is called: both modules need the other.


def attacks(preset: str, bench: Bench) -> Protocol:
    """Measure every attack with a trigger, and NTGA, on victims without defense."""
    from puregen_transforms.evaluate.protocols import NO_DEFENSE, SCALES, Part, Protocol, attack

    classes = bench.sets.train.class_names
    found: list[AttackSpec] = []
    for name, about in ATTACKS.items():
        settings: dict[str, Any] = {} if about.config().target_class is None else {"target_class": classes[0]}
        if name == "narcissus":
            found += _narcissus(preset, classes)
            continue
        if name == "tact" and len(classes) < 8:  # its published covers are of classes 5 and 7
            settings["cover_classes"] = tuple(range(2, len(classes)))[:2]
        if "targets" not in about.needs and settings.get("cover_classes") != ():
            found.append(attack(name, preset, name, **settings))
    part = Part(SCALES[preset].victim, found, [NO_DEFENSE])
    return Protocol("attacks", "Attacks without a defense", [part])


def _narcissus(preset: str, classes: tuple[str, ...]) -> list[AttackSpec]:
    """Aim Narcissus at several classes, at two strengths, and once through the defense."""
    from puregen_transforms.evaluate.protocols import attack

    first, *others = (classes[number] for number in (0, 3, 9, 6) if number < len(classes))
    variants: list[tuple[str, dict[str, Any]]] = [
        *((f"narcissus, ε 16, {name}", {"target_class": name}) for name in (first, *others)),
        (f"narcissus, ε 8, {first}", {"target_class": first, "epsilon": 8.0}),
        (f"narcissus, ε 16, {first}, knows the defense", {"target_class": first, "defense_aware": "both"}),
    ]
    if preset == "smoke":
        quick = {"langevin_steps": 2}
        variants = [(group, settings | quick) for group, settings in (variants[0], variants[-1])]
    return [attack("narcissus", preset, group, **{"epsilon": 16.0, **settings}) for group, settings in variants]


def triggerless(preset: str, bench: Bench) -> Protocol:
    """Count the target images that triggerless attacks hit on victims without defense."""
    from puregen_transforms.evaluate.protocols import NO_DEFENSE, Protocol, bullseye_polytope, gradient_matching

    parts = [*gradient_matching(preset, bench).parts, *bullseye_polytope(preset, bench).parts]
    alone = [replace(part, defenses=[NO_DEFENSE]) for part in parts]
    return Protocol("triggerless", "Triggerless attacks without a defense", alone)

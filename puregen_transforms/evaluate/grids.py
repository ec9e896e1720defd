"""Which attacks meet which defenses, at a preset and for the classes at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import AttackSpec, Cell, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.generators import trained_ebm
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.rows import (
    NO_DEFENSE,
    availability_defenses,
    every_defense,
    main_defenses,
    onestep,
    patterns_and_outliers_left_out,
    patterns_left_out,
    purify,
    transfer_defenses,
)


@dataclass(frozen=True)
class Grid:
    """Attacks against defenses of one kind of victim.

    Args:
        victim: of all cells.
        attacks: with their groups, the columns.
        defenses: the rows.
        seeds: victims of each cell.
    """

    victim: VictimSpec
    attacks: Sequence[AttackSpec]
    defenses: Sequence[DefenseSpec]
    seeds: int = 1


def attack(name: str, preset: str, group: str, *, known: bool = False, **settings: Any) -> AttackSpec:
    """Describe an attack at a preset of its own, with all its settings.

    Raises:
        ValueError: a setting that it does not have, or out of range.
    """
    config = ATTACKS[name].config.preset(preset, **settings)
    return AttackSpec(name=name, settings=config.to_dict(), group=group, known=known)


def attacks_by_group(
    about: Mapping[str, tuple[str, Mapping[str, Any]]], scale: Scale, classes: Sequence[str]
) -> list[AttackSpec]:
    """Describe an attack of each group, at the preset, without those that need more classes.

    Args:
        about: name and settings, by group.
        scale: the preset; at "smoke" a tenth of the set is poisoned whatever the settings, as it has a hundred images.
        classes: of the images at hand.
    """
    many: dict[str, Any] = {"rate": 0.1} if scale.name == "smoke" else {}
    return [
        attack(name, scale.name, group, **{**fitting, **settings, **many})
        for group, (name, settings) in about.items()
        if (fitting := fitting_settings(name, classes)) is not None
    ]


def targets_among(classes: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Choose target classes by position, counted around where there are fewer; each once."""
    return list(dict.fromkeys(classes[position % len(classes)] for position in positions))


def pairs(count: int, classes: int) -> list[tuple[int, int]]:
    """Draw (true class, wanted class) of target images at random.

    Args:
        count: how many.
        classes: two or more.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(classes, generator=generator)[:2].tolist() for _ in range(count)]
    return [(first, second) for first, second in drawn]


def narcissus(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids of Narcissus: clean-label triggers, at two strengths where there is time.

    `onestep`, which is for photographs, has its strengths judged here, where victims can be trained in numbers: each by
    one victim, and the default, beside the energy network and no defense, by two.
    """
    classes = bench.sets.train.class_names
    positions = {"smoke": (0,), "cpu": (0, 3, -1)}.get(scale.name, range(len(classes)))
    attacks = [
        attack("narcissus", scale.name, f"ε {epsilon:g}", target_class=name, epsilon=epsilon)
        for epsilon in ((16.0,) if scale.name == "smoke" else (16.0, 8.0))
        for name in targets_among(classes, positions)
    ]
    if scale.name == "smoke":
        return [Grid(scale.victim, attacks, every_defense(scale))]
    default, *others = (onestep(scale, strength) for strength in ("standard", "light", "strong"))
    compared = [NO_DEFENSE, purify("PureGen-EBM", scale), default]
    return [
        Grid(scale.victim, attacks, [*every_defense(scale), default, *others]),
        Grid(scale.victim, attacks, compared, seeds=2),
    ]


_TRIGGERS = {
    "smoke": ("trojan",),
    "cpu": ("badnets", "blended", "sig", "wanet", "input_aware", "clean_label"),
}


def triggers(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of attacks with one trigger for all images."""
    every = [name for name, about in ATTACKS.items() if "targets" not in about.needs]
    others = [name for name in every if name != "narcissus" and ATTACKS[name].config().target_class is not None]
    many: dict[str, Any] = {"rate": 0.1} if scale.name == "smoke" else {}  # of a hundred images
    attacks = [
        attack(name, scale.name, name, **settings, **many)
        for name in _TRIGGERS.get(scale.name, others)
        if (settings := fitting_settings(name, bench.sets.train.class_names)) is not None
    ]
    return [Grid(scale.victim, attacks, [*main_defenses(scale), patterns_and_outliers_left_out()])]


def fitting_settings(name: str, classes: Sequence[str]) -> dict[str, Any] | None:
    """Choose settings that fit an attack to the classes at hand; None if they are too few for it."""
    if ATTACKS[name].config().target_class is None:
        return {}
    settings: dict[str, Any] = {"target_class": classes[0]}
    if name == "tact" and len(classes) < 8:  # its published covers are of classes 5 and 7
        if len(classes) < 3:
            return None
        settings["cover_classes"] = tuple(range(2, len(classes)))[:2]
    return settings


def gradient_matching(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of gradient matching: target images of victims from scratch."""
    attacks = [
        attack(
            "gradient_matching",
            scale.name,
            "gradient matching",
            source_class=source,
            target_class=wanted,
            target_index=index,
        )
        for index, (source, wanted) in enumerate(pairs(scale.targets, len(bench.sets.train.class_names)))
    ]
    # Each of these poisons has a perturbation of its own: there is no pattern to be found.
    return [Grid(scale.victim, attacks, [*main_defenses(scale), patterns_and_outliers_left_out()])]


def bullseye_polytope(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids of Bullseye Polytope: target images of victims that transfer."""
    tuned = {"mode": "end_to_end"} | ({} if scale.name == "smoke" else {"rate": 0.02})
    kinds: list[tuple[str, str, int, bool, dict[str, Any]]] = [
        ("last layer anew", "linear", 500, True, {}),
        ("last layer anew, extractor unknown", "linear", 500, False, {}),
        ("all layers tuned", "fine_tune", 1000, True, tuned),
    ]
    grids: dict[str, Grid] = {}
    for group, scenario, steps, known, settings in kinds:
        victim = replace(scale.victim, scenario=scenario, transfer_epochs=scale.transfer_epochs)
        rate = {"rate": 0.1} if scale.name == "smoke" else {}
        attacks = [
            attack(
                "bullseye_polytope",
                scale.name,
                group,
                known=known,
                source_class=source,
                target_class=wanted,
                target_index=0 if scale.name == "smoke" else index,
                **(rate | settings),
            )
            for index, (source, wanted) in enumerate(pairs(scale.targets, len(bench.sets.train.class_names)))
        ]
        before = grids[scenario].attacks if scenario in grids else ()
        grids[scenario] = Grid(victim, [*before, *attacks], transfer_defenses(scale, steps))
    return list(grids.values())


def defense_aware(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of Narcissus by attackers who have the energy network."""
    variants = {
        "none": "knows nothing",
        "surrogate": "surrogate on purified images",
        "generation": "trigger through the chain",
        "both": "both",
    }
    if scale.name == "smoke":
        variants = {"both": "both"}
    steps: dict[str, Any] = {"langevin_steps": 2} if scale.name == "smoke" else {}
    first = bench.sets.train.class_names[0]
    attacks = [
        attack(
            "narcissus",
            scale.name,
            group,
            target_class=first,
            defense_aware=aware,
            **(steps if aware != "none" else {}),
        )
        for aware, group in variants.items()
    ]
    return [Grid(scale.victim, attacks, [NO_DEFENSE, purify("PureGen-EBM", scale), patterns_left_out()])]


def _strong_narcissus(scale: Scale, bench: Bench) -> AttackSpec:
    first = bench.sets.train.class_names[0]
    return attack("narcissus", scale.name, "ε 16", target_class=first, epsilon=16.0)


def poisoned_generator(scale: Scale, bench: Bench) -> list[Grid]:
    """Train generators on clean and on poisoned images, and make the grid of them as defenses."""
    aim = _strong_narcissus(scale, bench)
    poison = bench.poison(Cell(attack=aim, victim=scale.victim))
    assert poison is not None and poison.trigger is not None
    natural = bench.sets.natural.images
    defenses = [NO_DEFENSE]
    for name, images in (("clean", natural), ("poisoned", poison.trigger(natural))):
        folder = trained_ebm(bench.store, scale.generator, images, device=bench.device, say=bench.say)
        defenses.append(purify(f"EBM, trained on {name} images", scale, checkpoint=str(folder)))
    return [Grid(scale.victim, [aim], defenses)]


_FEW_CLASSES = 11


def shifted_generator(scale: Scale, bench: Bench) -> list[Grid]:
    """Train generators on other images, and make the grid of them as defenses."""
    natural = bench.sets.natural
    gray = natural.images.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1).contiguous()
    kinds = {"EBM, trained on the same in gray": gray}
    if scale.name != "smoke":
        order = torch.randperm(len(natural.class_names), generator=torch.Generator().manual_seed(0))
        few = natural.images[torch.isin(natural.labels, order[:_FEW_CLASSES])]
        kinds = {"EBM, trained on photographs": natural.images, "EBM, on few classes alone": few} | kinds
    defenses = [NO_DEFENSE]
    for name, images in kinds.items():
        folder = trained_ebm(bench.store, scale.generator, images, device=bench.device, say=bench.say)
        defenses.append(purify(name, scale, checkpoint=str(folder)))
    return [Grid(scale.victim, [_strong_narcissus(scale, bench)], defenses)]


def availability(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of attacks on all that is learned, whose success is a low accuracy."""
    every = [name for name, about in ATTACKS.items() if about.availability]
    names = ["lsp", "targeted_adversarial"] if scale.name == "smoke" else every
    found = [attack(name, scale.name, name) for name in names]
    victim = replace(scale.victim, recipe="constant") if scale.name == "paper" else scale.victim  # as ECLIPSE's
    return [Grid(victim, found, availability_defenses(scale), seeds=1 if scale.name == "smoke" else 2)]


def attacks(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grid of all attacks but triggerless ones, without a defense."""
    classes = bench.sets.train.class_names
    found: list[AttackSpec] = []
    for name, about in ATTACKS.items():
        if name == "narcissus":
            found += _narcissus_variants(scale, classes)
        elif "targets" not in about.needs and (settings := fitting_settings(name, classes)) is not None:
            found.append(attack(name, scale.name, name, **settings))
    variations = dict(list(_VARIATIONS.items())[:2]) if scale.name == "smoke" else _VARIATIONS
    found += attacks_by_group(variations, scale, classes)
    return [Grid(scale.victim, found, [NO_DEFENSE])]


_VARIATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{name}, {goal.replace('_', '-')}": (name, {"goal": goal})
        for name in ("badnets", "blended", "trojan")
        for goal in ("all_to_all", "untargeted")
    },
    "badnets, jittered by 4 pixels": ("badnets", {"jitter": 4}),
    **{f"badnets, saved as JPEG {quality}": ("badnets", {"reencode": quality}) for quality in (90, 75)},
}
"""Goals and options that several attacks have."""


def _narcissus_variants(scale: Scale, classes: Sequence[str]) -> list[AttackSpec]:
    """Aim Narcissus at several classes, at two strengths, and once through the defense."""
    first, *others = targets_among(classes, (0, 3, 9, 6))
    variants: list[tuple[str, dict[str, Any]]] = [
        *((f"narcissus, ε 16, {name}", {"target_class": name}) for name in (first, *others)),
        (f"narcissus, ε 8, {first}", {"target_class": first, "epsilon": 8.0}),
        (f"narcissus, ε 16, {first}, knows the defense", {"target_class": first, "defense_aware": "both"}),
    ]
    if scale.name == "smoke":
        quick = {"langevin_steps": 2}
        variants = [(group, settings | quick) for group, settings in (variants[0], variants[-1])]
    return [attack("narcissus", scale.name, group, **{"epsilon": 16.0, **settings}) for group, settings in variants]


def triggerless(scale: Scale, bench: Bench) -> list[Grid]:
    """Make the grids of triggerless attacks, without a defense."""
    grids = [*gradient_matching(scale, bench), *bullseye_polytope(scale, bench)]
    return [replace(grid, defenses=[NO_DEFENSE]) for grid in grids]

"""Named grids of cells, at three sizes: "smoke" (seconds, to see it run), "cpu" (2 cores), "paper" (a GPU)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from puregen_transforms.attacks.config import PRESETS
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.data.demo import CLASSES
from puregen_transforms.evaluate.attack_protocols import attacks, triggerless
from puregen_transforms.evaluate.cells import AttackSpec, Cell, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.generators import GeneratorSpec, trained_ebm
from puregen_transforms.evaluate.run import Bench


@dataclass(frozen=True)
class Scale:
    """How large a preset is.

    Args:
        images_per_class: that victims from scratch learn.
        victim: from scratch.
        targets: images, for attacks on single images.
        transfer_epochs: of both kinds of transfer; None is as published.
        generator: settings of the generators that a protocol trains.
    """

    images_per_class: int
    victim: VictimSpec
    targets: int
    transfer_epochs: int | None
    generator: GeneratorSpec


SCALES = {
    "smoke": Scale(
        12,
        VictimSpec(classifier="tiny", epochs=6),
        targets=1,
        transfer_epochs=4,
        generator=GeneratorSpec(nf=4, updates=2, batch_size=8, langevin_steps=2, bank_size=16),
    ),
    "cpu": Scale(
        1000,
        VictimSpec(),
        targets=10,
        transfer_epochs=None,
        generator=GeneratorSpec(nf=32, updates=1500, batch_size=32, langevin_steps=40, bank_size=4000),
    ),
    "paper": Scale(
        5000,
        VictimSpec(classifier="resnet18", recipe="step", epochs=80),
        targets=100,
        transfer_epochs=None,
        generator=GeneratorSpec(nf=128, updates=5000, batch_size=128, langevin_steps=100, bank_size=10_000),
    ),
}


@dataclass(frozen=True)
class Part:
    """One table: attacks against defenses of one kind of victim.

    Args:
        victim: of all cells.
        attacks: with their groups, the table's columns.
        defenses: the table's rows.
    """

    victim: VictimSpec
    attacks: Sequence[AttackSpec]
    defenses: Sequence[DefenseSpec]


@dataclass(frozen=True)
class Protocol:
    """A named grid.

    Args:
        name: of its benchmark.
        title: of its tables, with what they show.
        parts: one for each table.
        seeds: victims of each cell.
        extras: rows, by name, that are left out unless they are asked for.
    """

    name: str
    title: str
    parts: Sequence[Part]
    seeds: int = 1
    extras: Sequence[str] = ()

    @property
    def cells(self) -> list[Cell]:
        """All of them; in each part those without attack, which show what a defense costs, first."""
        return [
            Cell(attack=attack, defense=defense, victim=part.victim, seed=seed)
            for part in self.parts
            for seed, attack, defense in product(range(self.seeds), (AttackSpec(), *part.attacks), part.defenses)
        ]

    @property
    def defense_names(self) -> list[str]:
        """Rows of all tables."""
        return list(dict.fromkeys(defense.name for part in self.parts for defense in part.defenses))


def attack(name: str, preset: str, group: str, *, known: bool = False, **settings: Any) -> AttackSpec:
    """An attack at its preset, with all its settings.

    Raises:
        ValueError: a setting that it does not have, or out of range.
    """
    config = ATTACKS[name].config.preset(preset, **settings)
    return AttackSpec(name=name, settings=config.to_dict(), group=group, known=known)


NO_DEFENSE = DefenseSpec()
PATTERNS, OUTLIERS = Component(name="shared_patterns"), Component(name="energy_outliers")


def purify(name: str, preset: str, **options: Any) -> DefenseSpec:
    """A method of `PureGen`; at "smoke" with two steps, and below "paper" with fewer calls of the diffusion network."""
    method = options.get("method", "ebm")
    if preset == "smoke":
        options |= {"ebm_steps": 2} if method in ("ebm", "naive", "reps", "adaptive") else {}
        options |= {"ddpm_steps": 2} if method not in ("ebm", "jpeg") else {}
        options |= {"reps": 1} if method == "reps" else {}
    elif preset == "cpu" and method not in ("ebm", "jpeg"):
        options = {"ddpm_inference_steps": {"filt": 25, "reps": 10}.get(method, 15), **options}
    return DefenseSpec(name=name, purify_others=options)


def jpeg(quality: int) -> DefenseSpec:
    """The baseline; at 75 and 85, a trap on images that were JPEG of quality 75 to begin with."""
    return purify(f"JPEG {quality}", "paper", method="jpeg", jpeg_quality=quality)


def friends(preset: str, noise: str = "bernoulli") -> DefenseSpec:
    """FrieNDs; its noise is made after 5 epochs, at "smoke" after one."""
    options = {"noise": noise} | ({"start": 1, "iterations": 2} if preset == "smoke" else {})
    return DefenseSpec(name=f"FrieNDs, {noise}", train=Component(name="friends", settings=options))


def epic(preset: str, share: float = 0.2) -> DefenseSpec:
    """EPIC; it looks every 10 epochs, of short trainings every third."""
    interval = {"smoke": 1, "cpu": 3}.get(preset, 10)
    options = {"share": share, "interval": interval}
    return DefenseSpec(name=f"EPIC {share:g}", train=Component(name="epic", settings=options))


def inspected(preset: str, *, purified: bool = False) -> DefenseSpec:
    """`puregen inspect`, and the images it finds left out; or purified, twice as far as usual and by both networks."""
    if not purified:
        return DefenseSpec(name="PureGen-inspect, found images left out", detect=[PATTERNS])
    carriers: dict[str, Any] = {"method": "naive", "ebm_steps": 2, "ddpm_steps": 2}
    if preset != "smoke":
        carriers = {"method": "naive", "dynamics": "cooled", "ebm_steps": 300, "ddpm_steps": 150}
        carriers["ddpm_inference_steps"] = 15
    return DefenseSpec(name="PureGen-inspect, found images purified", detect=[PATTERNS], purify_flagged=carriers)


def inspected_with_outliers() -> DefenseSpec:
    """The same, with images whose energy lies beyond that of nearly all others left out too."""
    return DefenseSpec(name="PureGen-inspect, and high energies left out", detect=[PATTERNS, OUTLIERS])


def every_defense(preset: str) -> list[DefenseSpec]:
    """For victims from scratch."""
    smoke = [NO_DEFENSE, jpeg(75), friends(preset), epic(preset), purify("PureGen-EBM", preset), inspected(preset)]
    if preset == "smoke":
        return smoke
    defenses = [
        NO_DEFENSE,
        *map(jpeg, (25, 50, 75, 85)),
        friends(preset),
        epic(preset),
        purify("PureGen-EBM", preset),
        purify("PureGen-DDPM", preset, method="ddpm"),
        purify("PureGen-adaptive", preset, method="adaptive"),
        inspected(preset, purified=True),
        inspected(preset),
    ]
    if preset == "paper":
        defenses += [
            friends(preset, "gaussian"),
            *(epic(preset, share) for share in (0.1, 0.3)),
            purify("PureGen-EBM, published chain", preset, dynamics="paper"),
            *(purify(f"PureGen-{name.upper()}", preset, method=name) for name in ("naive", "reps", "filt")),
        ]
    return defenses


def main_defenses(preset: str) -> list[DefenseSpec]:
    """The same, without those that say least."""
    if preset != "cpu":
        return every_defense(preset)
    left_out = (*_EXTRAS, "PureGen-inspect, found images purified")
    return [defense for defense in every_defense(preset) if defense.name not in left_out]


_EXTRAS = ("JPEG 50", "JPEG 85", "EPIC 0.2", "PureGen-adaptive")
"""Rows for which 2 cores have no time unless they are asked for."""


def transfer_defenses(preset: str, langevin_steps: int) -> list[DefenseSpec]:
    """Defenses of the images alone, with the paper's steps for transfer (Table 10)."""
    ebm, ddpm = {"ebm_steps": langevin_steps}, {"method": "ddpm", "ddpm_steps": 125}
    qualities = (75,) if preset == "smoke" else (25, 50, 75, 85)
    purified = [purify("PureGen-EBM", preset, **ebm), purify("PureGen-DDPM", preset, **ddpm)]
    return [NO_DEFENSE, *map(jpeg, qualities), *purified, inspected(preset)]


def narcissus(preset: str, bench: Bench) -> Protocol:
    """PureGen's Tables 1 and 4: clean-label triggers at two strengths."""
    scale = SCALES[preset]
    classes = {"smoke": ("airplane",), "cpu": ("airplane", "cat", "truck")}.get(preset, CLASSES)
    strengths = (16.0,) if preset == "smoke" else (16.0, 8.0)
    attacks = [
        attack("narcissus", preset, f"ε {epsilon:g}", target_class=name, epsilon=epsilon)
        for epsilon in strengths
        for name in classes
    ]
    part = Part(scale.victim, attacks, every_defense(preset))
    return Protocol("narcissus", "Narcissus", [part], extras=_EXTRAS if preset == "cpu" else ())


def triggers(preset: str, bench: Bench) -> Protocol:
    """Attacks with visible, blended, warped and learned triggers."""
    names = {
        "smoke": ("badnets",),
        "cpu": ("badnets", "blended", "sig", "wanet", "input_aware", "clean_label"),
    }.get(preset, tuple(name for name in ATTACKS if name not in _NOT_ONE_TRIGGER))
    attacks = [attack(name, preset, name, target_class="airplane") for name in names]
    part = Part(SCALES[preset].victim, attacks, [*main_defenses(preset), inspected_with_outliers()])
    return Protocol("triggers", "Trigger attacks", [part])


_NOT_ONE_TRIGGER = ("narcissus", "gradient_matching", "bullseye_polytope", "ntga")


def gradient_matching(preset: str, bench: Bench) -> Protocol:
    """PureGen's Table 1: single images to be misread by victims from scratch."""
    scale = SCALES[preset]
    attacks = [
        attack(
            "gradient_matching",
            preset,
            "gradient matching",
            source_class=source,
            target_class=wanted,
            target_index=index,
        )
        for index, (source, wanted) in enumerate(pairs(scale.targets, len(CLASSES)))
    ]
    # Each of these poisons has a perturbation of its own: there is no pattern to be found.
    part = Part(scale.victim, attacks, [*main_defenses(preset), inspected_with_outliers()])
    return Protocol("gradient_matching", "Gradient matching", [part])


def bullseye_polytope(preset: str, bench: Bench) -> Protocol:
    """PureGen's table of transfer: single images to be misread after linear transfer and fine-tuning."""
    scale = SCALES[preset]
    tuned = {"mode": "end_to_end"} | ({} if preset == "smoke" else {"rate": 0.02})
    kinds: list[tuple[str, str, int, bool, dict[str, Any]]] = [
        ("last layer anew", "linear", 500, True, {}),
        ("last layer anew, extractor unknown", "linear", 500, False, {}),
        ("all layers tuned", "fine_tune", 1000, True, tuned),
    ]
    parts: dict[str, Part] = {}
    for group, scenario, steps, known, settings in kinds:
        victim = replace(scale.victim, scenario=scenario, transfer_epochs=scale.transfer_epochs)
        rate = {"rate": 0.1} if preset == "smoke" else {}
        attacks = [
            attack(
                "bullseye_polytope",
                preset,
                group,
                known=known,
                source_class=source,
                target_class=wanted,
                target_index=0 if preset == "smoke" else index,
                **(rate | settings),
            )
            for index, (source, wanted) in enumerate(pairs(scale.targets, len(CLASSES)))
        ]
        before = parts.get(scenario)
        attacks = [*(before.attacks if before else ()), *attacks]
        parts[scenario] = Part(victim, attacks, transfer_defenses(preset, steps))
    return Protocol("bullseye_polytope", "Bullseye Polytope", list(parts.values()))


def defense_aware(preset: str, bench: Bench) -> Protocol:
    """PureGen's Table 11: Narcissus by an attacker who has the energy network."""
    variants = {
        "none": "knows nothing",
        "surrogate": "surrogate on purified images",
        "generation": "trigger through the chain",
        "both": "both",
    }
    if preset == "smoke":
        variants = {"both": "both"}
    steps: dict[str, Any] = {"langevin_steps": 2} if preset == "smoke" else {}
    attacks = [
        attack(
            "narcissus",
            preset,
            group,
            target_class="airplane",
            defense_aware=aware,
            **(steps if aware != "none" else {}),
        )
        for aware, group in variants.items()
    ]
    defenses = [NO_DEFENSE, purify("PureGen-EBM", preset), inspected(preset)]
    part = Part(SCALES[preset].victim, attacks, defenses)
    return Protocol("defense_aware", "An attacker who knows the defense", [part])


def poisoned_generator(preset: str, bench: Bench) -> Protocol:
    """PureGen's Table 3: the generator was trained on images that all carry the very trigger."""
    scale = SCALES[preset]
    aim = attack("narcissus", preset, "ε 16", target_class="airplane", epsilon=16.0)
    poison = bench.poison(Cell(attack=aim, victim=scale.victim))
    assert poison is not None and poison.trigger is not None
    natural = bench.sets.natural.images
    clean = trained_ebm(bench.store, scale.generator, natural, device=bench.device, say=bench.say)
    poisoned = trained_ebm(bench.store, scale.generator, poison.trigger(natural), device=bench.device, say=bench.say)
    defenses = [
        NO_DEFENSE,
        purify("EBM, trained on clean images", preset, checkpoint=str(clean)),
        purify("EBM, trained on poisoned images", preset, checkpoint=str(poisoned)),
    ]
    part = Part(scale.victim, [aim], defenses)
    return Protocol("poisoned_generator", "A generator trained on poisoned images", [part])


FOOD = (
    "guacamole",
    "pretzel",
    "mashed potato",
    "bell pepper",
    "mushroom",
    "orange",
    "banana",
    "pomegranate",
    "meat loaf",
    "pizza",
    "espresso",
)
"""Classes of Tiny ImageNet that have nothing to do with those of CIFAR-10."""


def shifted_generator(preset: str, bench: Bench) -> Protocol:
    """PureGen's Figure 4: the generator was trained on images unlike those to be purified."""
    scale, natural = SCALES[preset], bench.sets.natural
    aim = attack("narcissus", preset, "ε 16", target_class="airplane", epsilon=16.0)
    gray = natural.images.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1).contiguous()
    kinds = {"EBM, trained on the same in gray": gray}
    if preset != "smoke":
        food = torch.isin(natural.labels, torch.tensor([natural.class_number(name) for name in FOOD]))
        kinds = {"EBM, trained on photographs": natural.images, "EBM, on food alone": natural.images[food]} | kinds
    defenses = [NO_DEFENSE]
    for name, images in kinds.items():
        folder = trained_ebm(bench.store, scale.generator, images, device=bench.device, say=bench.say)
        defenses.append(purify(name, preset, checkpoint=str(folder)))
    part = Part(scale.victim, [aim], defenses)
    return Protocol("shifted_generator", "A generator trained on other images", [part])


def pairs(count: int, classes: int) -> list[tuple[int, int]]:
    """(true class, wanted class) of each target of an attack on single images, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(classes, generator=generator)[:2].tolist() for _ in range(count)]
    return [(first, second) for first, second in drawn]


PROTOCOLS: dict[str, Callable[[str, Bench], Protocol]] = {
    "narcissus": narcissus,
    "triggers": triggers,
    "gradient_matching": gradient_matching,
    "bullseye_polytope": bullseye_polytope,
    "defense_aware": defense_aware,
    "poisoned_generator": poisoned_generator,
    "shifted_generator": shifted_generator,
    "attacks": attacks,
    "triggerless": triggerless,
}


def build_protocol(name: str, preset: str, bench: Bench) -> Protocol:
    """A named grid; those about generators train them first.

    Raises:
        ValueError: an unknown name or preset.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"Expected a protocol out of {', '.join(PROTOCOLS)}, but got {name!r}.")
    if preset not in PRESETS:
        raise ValueError(f"Expected a preset out of {', '.join(PRESETS)}, but got {preset!r}.")
    return PROTOCOLS[name](preset, bench)

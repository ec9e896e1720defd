"""Named grids of cells, at three sizes: "smoke" (seconds, to see it run), "cpu" (2 cores), "paper" (a GPU)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from puregen_transforms.attacks.config import PRESETS
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.data.demo import CLASSES
from puregen_transforms.evaluate.cells import AttackSpec, Cell, DefenseSpec, VictimSpec


@dataclass(frozen=True)
class Scale:
    """How large a preset is.

    Args:
        images_per_class: that victims from scratch learn.
        victim: from scratch.
        seeds: victims of each cell.
        targets: images, for attacks on single images.
        transfer_epochs: of both kinds of transfer; None is as published.
    """

    images_per_class: int
    victim: VictimSpec
    seeds: int = 1
    targets: int = 10
    transfer_epochs: int | None = None


SCALES = {
    "smoke": Scale(12, VictimSpec(classifier="tiny", epochs=6), targets=1, transfer_epochs=4),
    "cpu": Scale(1000, VictimSpec()),
    "paper": Scale(5000, VictimSpec(classifier="resnet18", recipe="step", epochs=80), targets=100),
}


@dataclass(frozen=True)
class Protocol:
    """A named grid.

    Args:
        name: of its benchmark.
        title: of its table.
        attacks: with their groups.
        defenses: in the order of the table's rows.
        victims: in one table each.
        seeds: of the victims.
    """

    name: str
    title: str
    attacks: Sequence[AttackSpec]
    defenses: Sequence[DefenseSpec]
    victims: Sequence[VictimSpec]
    seeds: int = 1

    @property
    def cells(self) -> list[Cell]:
        """All of them; those without attack, which show what a defense costs, first."""
        grid = product(self.victims, range(self.seeds), (AttackSpec(), *self.attacks), self.defenses)
        return [
            Cell(attack=attack, defense=defense, victim=victim, seed=seed) for victim, seed, attack, defense in grid
        ]


def purify(name: str, preset: str, *, without: float = 0.0, **options: Any) -> DefenseSpec:
    """A method of `PureGen`; at "smoke" with two steps, and below "paper" with fewer calls of the diffusion network."""
    method = options.get("method", "ebm")
    if preset == "smoke":
        options |= {"ebm_steps": 2} if method in ("ebm", "naive", "reps", "adaptive") else {}
        options |= {"ddpm_steps": 2} if method not in ("ebm", "jpeg") else {}
        options |= {"reps": 1} if method == "reps" else {}
    elif preset == "cpu" and method not in ("ebm", "jpeg"):
        options = {"ddpm_inference_steps": {"filt": 25, "reps": 10}.get(method, 15), **options}
    settings: dict[str, Any] = {"options": options}
    if without:
        settings["without"] = without
    return DefenseSpec(name=name, plug="puregen", settings=settings)


NO_DEFENSE = DefenseSpec()


def jpeg(quality: int) -> DefenseSpec:
    """The baseline; at 75 and 85, a trap on images that were JPEG of quality 75 to begin with."""
    return DefenseSpec(
        name=f"JPEG {quality}", plug="puregen", settings={"options": {"method": "jpeg", "jpeg_quality": quality}}
    )


def inspected(name: str, *, carriers: dict[str, Any] | None = None) -> DefenseSpec:
    """`puregen inspect`, and the images it finds left out, or purified by a method of `PureGen`."""
    return DefenseSpec(name=name, plug="inspect", settings={"carriers": carriers})


def friends(preset: str, noise: str = "bernoulli") -> DefenseSpec:
    """FrieNDs; its noise is made after 5 epochs, at "smoke" after one."""
    options = {"noise": noise} | ({"start": 1, "iterations": 2} if preset == "smoke" else {})
    return DefenseSpec(name=f"FrieNDs, {noise}", plug="friends", settings={"options": options})


def epic(preset: str, share: float = 0.2) -> DefenseSpec:
    """EPIC; it looks every 10 epochs, of short trainings every third."""
    interval = {"smoke": 1, "cpu": 3}.get(preset, 10)
    return DefenseSpec(
        name=f"EPIC {share:g}", plug="epic", settings={"options": {"share": share, "interval": interval}}
    )


def attack(name: str, preset: str, group: str, *, known: bool = False, **settings: Any) -> AttackSpec:
    """An attack at its preset, with all its settings.

    Raises:
        ValueError: a setting that it does not have, or out of range.
    """
    config = ATTACKS[name].config.preset(preset, **settings)
    return AttackSpec(name=name, settings=config.to_dict(), group=group, known=known)


def check_preset(preset: str) -> None:
    """Raise ValueError for an unknown one."""
    if preset not in PRESETS:
        raise ValueError(f"Expected a preset out of {', '.join(PRESETS)}, but got {preset!r}.")


def narcissus(preset: str) -> Protocol:
    """PureGen's Tables 1 and 4: clean-label triggers at two strengths."""
    check_preset(preset)
    scale = SCALES[preset]
    classes = {"smoke": ("airplane",), "cpu": ("airplane", "cat", "truck")}.get(preset, tuple(CLASSES))
    attacks = [
        attack("narcissus", preset, f"ε {epsilon:g}", target_class=name, epsilon=epsilon)
        for epsilon in (16.0, 8.0)
        for name in classes
    ]
    return Protocol("narcissus", "Narcissus", attacks, standard_defenses(preset), [scale.victim], scale.seeds)


def strongest(preset: str) -> dict[str, Any]:
    """For images that are known to be poisoned: Langevin steps and diffusion twice as far."""
    if preset == "smoke":
        return {"method": "naive", "ebm_steps": 2, "ddpm_steps": 2}
    return {"method": "naive", "dynamics": "cooled", "ebm_steps": 300, "ddpm_steps": 150, "ddpm_inference_steps": 15}


def standard_defenses(preset: str) -> list[DefenseSpec]:
    """Those of every table."""
    return [
        NO_DEFENSE,
        jpeg(25),
        jpeg(50),
        jpeg(75),
        jpeg(85),
        friends(preset),
        friends(preset, "gaussian"),
        epic(preset),
        purify("PureGen-EBM", preset),
        purify("PureGen-DDPM", preset, method="ddpm"),
        purify("PureGen-adaptive", preset, method="adaptive"),
        inspected("PureGen-inspect, found images purified", carriers=strongest(preset)),
        inspected("PureGen-inspect, found images left out"),
    ]


def pairs(count: int, classes: int) -> list[tuple[int, int]]:
    """(true class, wanted class) of each target of an attack on single images, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(classes, generator=generator)[:2].tolist() for _ in range(count)]
    return [(first, second) for first, second in drawn]


PROTOCOLS: dict[str, Callable[[str], Protocol]] = {"narcissus": narcissus}

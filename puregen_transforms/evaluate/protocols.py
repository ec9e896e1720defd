"""Named experiments: what they ask, what they need, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from puregen_transforms.evaluate import detection_grids, grids, photograph_grids, training_grids
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import AttackSpec, Cell
from puregen_transforms.evaluate.presets import SCALES, Scale
from puregen_transforms.evaluate.rows import EXTRAS


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named experiment.

    Args:
        name: of its benchmark.
        title: of its tables.
        summary: what it asks, in a sentence.
        grids: makes the grids at a preset, for the classes of the images at hand.
        needs: of "public" (images of other classes, for attackers who learn from them), "transfer" (images for
            feature extractors and for a small set beside), "natural" (images that generators learn), "reserved" (clean
            images of the same classes, for detectors).
        extras: rows, by name, that are left out at the preset "cpu" unless they are asked for.
        duration: how long it takes, by preset: measured on 2 cores, where there is a figure.
    """

    name: str
    title: str
    summary: str
    grids: Callable[[Scale, Bench], Sequence[grids.Grid]]
    needs: frozenset[str] = frozenset()
    extras: Sequence[str] = ()
    duration: Mapping[str, str] = field(default_factory=dict)

    def cells(self, scale: Scale, bench: Bench, defenses: Sequence[str] | None = None) -> list[Cell]:
        """List all cells, each once; in each grid those without attack, which show what a defense costs, come first.

        Args:
            scale: the preset.
            bench: images, and a store for generators that are trained first.
            defenses: rows by name; None is all but the extras.

        Raises:
            ValueError: no such row.
        """
        made = self.grids(scale, bench)
        names = list(dict.fromkeys(defense.name for grid in made for defense in grid.defenses))
        if unknown := [name for name in defenses or () if name not in names]:
            raise ValueError(f"Expected defenses out of {', '.join(map(repr, names))}, but got {unknown[0]!r}.")
        extras = self.extras if scale.name == "cpu" else ()
        chosen = [name for name in names if name not in extras] if defenses is None else defenses
        cells: list[Cell] = []
        for grid in made:
            for seed, attack, defense in product(range(grid.seeds), (AttackSpec(), *grid.attacks), grid.defenses):
                cell = Cell(attack=attack, defense=defense, victim=grid.victim, seed=seed)
                if defense.name in chosen and cell not in cells:
                    cells.append(cell)
        return cells


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="narcissus",
            title="Narcissus",
            summary="Clean-label triggers at two strengths (PureGen's Tables 1 and 4).",
            grids=grids.narcissus,
            needs=frozenset({"public"}),
            extras=EXTRAS,
            duration={"cpu": "1 h 40 min"},
        ),
        Protocol(
            name="triggers",
            title="Trigger attacks",
            summary="Visible, blended, warped and learned triggers.",
            grids=grids.triggers,
            duration={"cpu": "2 h 40 min"},
        ),
        Protocol(
            name="gradient_matching",
            title="Gradient matching",
            summary="Target images to be misread by victims from scratch (PureGen's Table 1).",
            grids=grids.gradient_matching,
            duration={"cpu": "2 h 50 min"},
        ),
        Protocol(
            name="bullseye_polytope",
            title="Bullseye Polytope",
            summary="Target images to be misread after linear transfer and fine-tuning (PureGen's table of transfer).",
            grids=grids.bullseye_polytope,
            needs=frozenset({"transfer"}),
        ),
        Protocol(
            name="defense_aware",
            title="An attacker who knows the defense",
            summary="Narcissus by an attacker who has the energy network (PureGen's Table 11).",
            grids=grids.defense_aware,
            needs=frozenset({"public"}),
        ),
        Protocol(
            name="poisoned_generator",
            title="A generator trained on poisoned images",
            summary="The generator was trained on images that all carry the very trigger (PureGen's Table 3).",
            grids=grids.poisoned_generator,
            needs=frozenset({"public", "natural"}),
        ),
        Protocol(
            name="shifted_generator",
            title="A generator trained on other images",
            summary="The generator was trained on images unlike those to be purified (PureGen's Figure 4).",
            grids=grids.shifted_generator,
            needs=frozenset({"public", "natural"}),
        ),
        Protocol(
            name="detection",
            title="Detectors",
            summary="Who finds what, at what price, with how many false alarms; then victims of what is left.",
            grids=detection_grids.detection,
            needs=frozenset({"public", "reserved"}),
            duration={"cpu": "9 h"},
        ),
        Protocol(
            name="no_clean_images",
            title="Detectors without clean images",
            summary="What those that compare with clean images find where none are given.",
            grids=detection_grids.no_clean_images,
            needs=frozenset({"public"}),
        ),
        Protocol(
            name="larger_victim",
            title="Detectors that read a larger victim",
            summary="Whether what they miss is their weakness, or that of the small victim.",
            grids=detection_grids.larger_victim,
            needs=frozenset({"public", "reserved"}),
            duration={"cpu": "1 h"},
        ),
        Protocol(
            name="training_defenses",
            title="Training defenses",
            summary="The Victim and The Beneficiary, its parts, and rivals: what they reach, find and cost.",
            grids=training_grids.training_defenses,
            needs=frozenset({"public"}),
        ),
        Protocol(
            name="availability",
            title="Data made unlearnable",
            summary="Whole sets of which nothing general is learned: success is a low accuracy.",
            grids=grids.availability,
        ),
        Protocol(
            name="photographs",
            title="Photographs",
            summary="Triggers at the size of photographs, for a linear layer on a frozen network (extra: features).",
            grids=photograph_grids.photographs,
            needs=frozenset({"public"}),
        ),
        Protocol(
            name="attacks",
            title="Attacks without a defense",
            summary="Every attack with a trigger or on all that is learned, on victims without defense.",
            grids=grids.attacks,
            needs=frozenset({"public"}),
        ),
        Protocol(
            name="triggerless",
            title="Triggerless attacks without a defense",
            summary="How many target images triggerless attacks hit on victims without defense.",
            grids=grids.triggerless,
            needs=frozenset({"transfer"}),
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Find a protocol by its name.

    Raises:
        ValueError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"Expected a protocol out of {', '.join(PROTOCOLS)}, but got {name!r}.")
    return PROTOCOLS[name]


def find_scale(name: str) -> Scale:
    """Find a preset by its name.

    Raises:
        ValueError: no such preset.
    """
    if name not in SCALES:
        raise ValueError(f"Expected a preset out of {', '.join(SCALES)}, but got {name!r}.")
    return SCALES[name]

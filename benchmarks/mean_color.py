"""Whether purified images keep their mean colour, and what that changes for victims.

    uv run python benchmarks/mean_color.py CIFAR10_TEST_PARQUET PHOTOGRAPHS_PARQUET

Contract: two energy networks, the default and its predecessor (chains of its training rarely restarted from data, so
that its slope there was left to chance), on the same images with the same noise: `--images` of a CIFAR-10 test set by
the default dynamics and by the paper's, and `--photograph-count` photographs, at the size they have, by the default.
Reported, in gray levels of 255: the change of the mean of each channel over the set, its standard deviation over
images, and the largest change of 95 % of them; PSNR; and the share that is left of a trigger (the demo's, at eps 8 and
16) and of a tint (+12, -12, +8 of 255), a trigger that lives in the mean and that a repaired mean must not give back.

Then, unless `--no-victims`: two victims (seeds 0 and 1) each of Narcissus at both strengths (target "cat") and of the
tint (5 % of the rows, relabeled "cat"), undefended and behind both networks; cells are kept in `--runs`, as by all
grids.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from protocol import DATA, RESULTS, SOURCES
from torch import Tensor

from puregen_transforms import PureGen
from puregen_transforms.attacks import ATTACKS, Attack, Attacker
from puregen_transforms.attacks.blended import BlendedConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.columns import image_columns
from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.sources import load_image_tensor, open_source
from puregen_transforms.evaluate.bench import Bench, run_cells
from puregen_transforms.evaluate.benchmark import in_words
from puregen_transforms.evaluate.cells import AttackSpec, Cell
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.metrics import psnr_of_set, survival
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.rows import NO_DEFENSE, purify
from puregen_transforms.evaluate.sets import load_sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.functional.images import rounded
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.purifier.batches import on_single_threads
from puregen_transforms.transforms.formats import open_image

NETWORKS = {"before": "ebm-imagenet32-nf64", "after": DEFAULT_EBM}
DYNAMICS = ("cooled", "paper")
TINT = (12, -12, 8)
KEPT = ("accuracy", "success", "success_never_poisoned", "poison", "seconds")
"""Of the record of a cell."""


def tinted(images: Tensor) -> Tensor:
    """Shift the channels of uint8 images."""
    return (images.int() + torch.tensor(TINT).view(3, 1, 1)).clamp(0, 255).to(torch.uint8)


def triggered(images: Tensor, times: int) -> Tensor:
    """Add the demo trigger to 32-px images."""
    return add_trigger(images, times * load_demo().trigger)


def measure(transform: PureGen, images: list[Tensor], *, attacked: int) -> dict[str, Any]:
    """Purify images, each (3, H, W) uint8, and copies of the first that were attacked, with the same noise."""
    purifier = transform.purifier

    def purified(batch: list[Tensor]) -> list[Tensor]:
        if len({image.shape for image in batch}) == 1:
            return list(purifier(torch.stack(batch), sample_ids=torch.arange(len(batch)), seed=0))
        ids = torch.arange(len(batch))
        return on_single_threads(
            lambda index: purifier(batch[index][None], sample_ids=ids[index : index + 1], seed=0)[0], range(len(batch))
        )

    after = purified(images)
    change = torch.stack(
        [one.float().mean((1, 2)) - other.float().mean((1, 2)) for one, other in zip(after, images, strict=True)]
    )
    found: dict[str, Any] = {
        "images": len(images),
        "mean_change": change.mean(0).tolist(),
        "deviation_over_images": change.std(0).tolist(),
        "largest_of_95_percent": change.abs().quantile(0.95, 0).tolist(),
        "psnr": torch.tensor([psnr_of_set(one[None], other[None]) for one, other in zip(after, images, strict=True)])
        .mean()
        .item(),
    }
    if attacked:
        clean, clean_after = torch.stack(images[:attacked]), torch.stack(after[:attacked])
        kinds = {"trigger, eps 8": triggered(clean, 1), "trigger, eps 16": triggered(clean, 2), "tint": tinted(clean)}
        found["left"] = {
            name: survival(clean, poisoned, clean_after, torch.stack(purified(list(poisoned)))).mean().item()
            for name, poisoned in kinds.items()
        }
    return found


def craft_tint(dataset: ImageSet, config: BlendedConfig, attacker: Attacker) -> Crafted:
    """Tint random images and relabel them."""
    ids = choose_share(dataset, config.rate, generator=attacker.generator())
    pattern = torch.tensor(TINT, dtype=torch.float32).view(3, 1, 1).expand(3, *dataset.size).contiguous()
    return stamped(dataset, config, ids, trigger=Added(pattern))


def victims(runs: Path, images_per_class: int) -> list[dict[str, Any]]:
    """Train victims without defense and behind both networks."""
    given = [str(DATA / SOURCES[part][0]) for part in ("train", "test", "public", "natural")]
    scale = replace(SCALES["cpu"], images_per_class=images_per_class)
    bench = Bench(load_sets(*given, scale=scale), Store(runs), "cpu", partial(print, flush=True))
    ATTACKS["tint"] = Attack("tint", BlendedConfig, craft_tint)
    attacks = [
        *(attack("narcissus", "cpu", f"ε {epsilon:g}", target_class="cat", epsilon=epsilon) for epsilon in (16.0, 8.0)),
        attack("tint", "cpu", "tint", target_class="cat"),
    ]
    defenses = [NO_DEFENSE, *(purify(name, scale, checkpoint=network) for name, network in NETWORKS.items())]
    cells = [
        Cell(attack=one, defense=defense, victim=scale.victim, seed=seed)
        for seed, one, defense in product(range(2), (AttackSpec(), *attacks), defenses)
    ]
    records = []
    for cell, record in run_cells(bench, cells):
        print(in_words(record), flush=True)
        figures = {key: record[key] for key in KEPT if key in record}
        records.append({"defense": cell.defense.name, "attack": cell.attack.group, "seed": cell.seed, **figures})
    return records


def photographs(source: str, count: int) -> list[Tensor]:
    """Read the first images of a set at their own sizes."""
    rows = next(iter(open_source(source).values())).select(range(count))
    return [rounded(open_image(image).rgb[0]) for image in rows[image_columns(rows.features)[0]]]


def markdown(record: Mapping[str, Any]) -> str:
    """Format the victims of a record: success and accuracy, mean and range over the seeds."""
    rows = [*NETWORKS, "none"]
    cells = record["victims"]

    def found(attack: str, defense: str, key: str) -> str:
        values = [cell[key] for cell in cells if (cell["attack"], cell["defense"]) == (attack, defense)]
        return f"{fmean(values):.1%} ({min(values):.1%} to {max(values):.1%})"

    attacks = list(dict.fromkeys(cell["attack"] for cell in cells if "success" in cell))
    head = ["energy network", "accuracy, no attack", *(f"{attack}: attack success" for attack in attacks)]
    lines = [head, ["---"] * len(head)]
    for name in sorted(rows, key=["none", *NETWORKS].index):
        words = {"none": "nothing purified"}.get(name, f"{NETWORKS.get(name)} ({name})")
        lines.append(
            [words, found("no attack", name, "accuracy"), *(found(attack, name, "success") for attack in attacks)]
        )
    seeds = len({cell["seed"] for cell in cells})
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\nMean of {seeds} seeds, and their range; {record['victims_images_per_class']} images of each class of "
        f"CIFAR-10, target class cat; the tint is {TINT} of 255. `{record['command']}`; {record['machine']}.\n"
    )


def main() -> None:
    """Measure, train, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10")
    parser.add_argument("photographs")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--photograph-count", type=int, default=40)
    parser.add_argument("--attacked", type=int, default=250, help="CIFAR-10 images that are purified attacked, too")
    parser.add_argument("--images-per-class", type=int, default=500, help="that victims learn")
    parser.add_argument("--no-victims", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--output", type=Path, default=RESULTS / "mean_color.json")
    arguments = parser.parse_args()
    sets = {
        "cifar10": list(load_image_tensor(arguments.cifar10)[: arguments.images]),
        "photographs": photographs(arguments.photographs, arguments.photograph_count),
    }
    record: dict[str, Any] = {
        "benchmark": "mean_color",
        "command": "python benchmarks/mean_color.py cifar10-jpeg-test.parquet clothing-test.parquet",
        **describe_machine(),
        "seed": 0,
        "networks": NETWORKS,
        "victims_images_per_class": arguments.images_per_class,
        "sets": {},
    }
    for (name, network), dynamics, kind in product(NETWORKS.items(), DYNAMICS, sets):
        if (dynamics, kind) == ("paper", "photographs"):
            continue
        found = measure(
            PureGen(checkpoint=network, dynamics=dynamics),
            sets[kind],
            attacked=arguments.attacked * (kind == "cifar10"),
        )
        record["sets"][f"{kind}, {dynamics}, {name}"] = found
        print(kind, dynamics, name, found, flush=True)
        write_record(arguments.output, record)
    if not arguments.no_victims:
        record["victims"] = victims(arguments.runs, arguments.images_per_class)
        write_record(arguments.output, record)


if __name__ == "__main__":
    main()

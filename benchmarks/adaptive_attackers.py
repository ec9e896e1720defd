"""Attackers who know our searches: what the verdict finds of their poison, and what the attack is still worth.

    uv run python benchmarks/adaptive_attackers.py CIFAR10_TRAIN CIFAR10_TEST

Contract: 5,000 CIFAR-10 images, target class 0 (airplane), no published attack. Each attacker avoids what one search
looks for; the plain attack stands beside it. They poison 5 % of the rows, but for the last.

- overlay: a picture blended in (a fifth); *natural overlay*: one with the amplitude spectrum of the set itself, whose
  whitened form is no louder at any frequency than natural images are.
- *many covers*: the natural overlay, and on twice as many rows of other classes that keep their labels.
- patch: a 5x5 checker patch in a corner; *wandering patch*: of half opacity, at a place drawn for each row.
- *ten patches*: ten 3x3 patches at ten places, a tenth of the rows each; any of them is to do at test time.
- *too few*: a 3x3 patch on 7 rows, fewer than most searches ask for.

The verdict is that of `puregen detect --budget 20m` with 2,000 reserved test images; the network that it trains is the
victim. Success is judged on the other test images outside the target class; after: of a victim that learns what the
verdict leaves. Cells are kept in the output file: after a kill the same command goes on. Two seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.trigger import Blended, Trigger
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import at_most_per_class
from puregen_transforms.detection import SuspectSet, Verdict, search_set
from puregen_transforms.evaluate.cells import VictimSpec
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.evaluate.victims import train_victim

RESULTS = Path(__file__).parent / "results"
SIDE, TARGET, SHARE, RESERVED = 32, 0, 0.05, 2000
VICTIM = VictimSpec(classifier="small", epochs=12)


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """One way to poison.

    Args:
        triggers: of each row that is changed, one of these, in turn.
        rows: that get the target's label.
        covers: that keep theirs.
        wanders: whether each row has its trigger at a place of its own, at test time, too.
    """

    triggers: tuple[Trigger, ...]
    rows: int
    covers: int = 0
    wanders: bool = False

    def stamp(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Put triggers on (n, 3, H, W) uint8 images."""
        stamped = images.clone()
        for row in range(len(images)):
            trigger = self.triggers[row % len(self.triggers)]
            if self.wanders:
                down, right = (int(torch.randint(SIDE - 5, (), generator=generator)) for _ in range(2))
                trigger = trigger.moved(-down, -right)
            stamped[row] = trigger(images[row : row + 1])[0]
        return stamped


def patch(
    side: int, *, opacity: float = 1.0, down: int | None = None, right: int | None = None, seed: int = 0
) -> Blended:
    """Draw a patch of black and white pixels, by default in the lower right corner."""
    values = 255.0 * torch.randint(2, (side, side), generator=torch.Generator().manual_seed(seed))
    image, shown = torch.zeros(3, SIDE, SIDE), torch.zeros(1, SIDE, SIDE)
    down, right = (SIDE - side if place is None else place for place in (down, right))
    image[:, down : down + side, right : right + side] = values
    shown[:, down : down + side, right : right + side] = opacity
    return Blended(image, shown)


def overlay(images: Tensor | None, *, opacity: float = 0.2) -> Blended:
    """Draw noise over the whole image; with images, noise of their mean amplitude spectrum."""
    noise = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    if images is not None:
        around = images.float() - images.float().mean((2, 3), keepdim=True)
        amplitudes = torch.fft.fft2(around).abs().square().mean(0).sqrt()
        noise = torch.fft.ifft2(torch.fft.fft2(noise) / torch.fft.fft2(noise).abs().clamp_min(1e-9) * amplitudes).real
    picture = (127.5 + 64 * noise / noise.std()).clamp(0, 255)
    return Blended(picture, torch.full((1, SIDE, SIDE), opacity))


def attackers(images: Tensor) -> dict[str, Attacker]:
    """List the attackers, each plain one before those that avoid what finds it."""
    rows = round(SHARE * len(images))
    ten = tuple(patch(3, down=3 * place, right=(7 * place) % 29, seed=place) for place in range(10))
    return {
        "overlay": Attacker(triggers=(overlay(None),), rows=rows),
        "natural overlay": Attacker(triggers=(overlay(images),), rows=rows),
        "many covers": Attacker(triggers=(overlay(images),), rows=rows, covers=2 * rows),
        "patch": Attacker(triggers=(patch(5),), rows=rows),
        "wandering patch": Attacker(triggers=(patch(5, opacity=0.5),), rows=rows, wanders=True),
        "ten patches": Attacker(triggers=ten, rows=rows),
        "too few": Attacker(triggers=(patch(3),), rows=7),
    }


def measure(attacker: Attacker, train: ImageSet, test: ImageSet, reserved: ImageSet, seed: int) -> dict[str, Any]:
    """Poison, search, and train on what is left."""
    generator = torch.Generator().manual_seed(seed)
    others = (train.labels != TARGET).nonzero().flatten()
    order = others[torch.randperm(len(others), generator=generator)]
    rows, covers = order[: attacker.rows], order[attacker.rows : attacker.rows + attacker.covers]
    images, labels = train.images.clone(), train.labels.clone()
    for changed in (rows, covers):
        images[changed] = attacker.stamp(images[changed], generator)
    labels[rows] = TARGET
    attacked = test.images[test.labels != TARGET]
    triggered = attacker.stamp(attacked, torch.Generator().manual_seed(99))

    def judged(model: nn.Module) -> dict[str, float]:
        return {
            "accuracy": accuracy(model, test.images, test.labels),
            "success": share_called_target(model, triggered, TARGET),
        }

    before: dict[str, float] = {}

    def train_and_judge(suspects: SuspectSet) -> nn.Module:
        model = learn(images, labels, train, seed)
        before.update(judged(model))
        return model

    verdict = search(images, labels, train, reserved, seed, train_and_judge)
    left = (~suspected(verdict)).nonzero().flatten()
    return {
        **counted(verdict, rows, torch.cat([rows, covers])),
        "covers_flagged": float(suspected(verdict)[covers].float().mean()) if attacker.covers else None,
        "found_by": {
            one.search.name: int(one.report.flagged[rows].sum())
            for one in verdict.made
            if one.report.flagged[rows].any()
        },
        "before": before,
        "after": judged(learn(images[left], labels[left], train, seed)),
    }


def suspected(verdict: Verdict) -> Tensor:
    """Mark the images that are flagged or doubted, (N,) bool."""
    return verdict.flagged | verdict.doubtful


def counted(verdict: Verdict, rows: Tensor, changed: Tensor) -> dict[str, Any]:
    """Compare a verdict with the poisoned rows, and with the images that nobody changed."""
    untouched = torch.ones(len(verdict.flagged), dtype=torch.bool).index_fill(0, changed, False)
    return {
        "level": verdict.level,
        "found": float(suspected(verdict)[rows].float().mean()),
        "clean_flagged": float(suspected(verdict)[untouched].float().mean()),
    }


def search(
    images: Tensor,
    labels: Tensor,
    train: ImageSet,
    reserved: ImageSet,
    seed: int,
    train_network: Callable[[SuspectSet], nn.Module],
) -> Verdict:
    """Make the whole search of the budget 20m."""
    suspects = SuspectSet(
        images=images,
        labels=labels,
        class_names=train.class_names,
        reserved=reserved,
        seed=seed,
        device=torch.device("cpu"),
    )
    return search_set(suspects, budget="20m", train=train_network)


def learn(images: Tensor, labels: Tensor, train: ImageSet, seed: int) -> nn.Module:
    """Train a victim."""
    classes = len(train.class_names)

    def nothing() -> nn.Module:
        raise AssertionError("A victim from scratch starts from nothing.")

    return train_victim(VICTIM, images, labels, classes=classes, defense=None, extractor=nothing, seed=seed).model


def markdown(record: dict[str, Any]) -> str:
    """Write the table: a line for each attacker and seed."""
    lines = [
        "| attacker | seed | verdict | poison found | clean images flagged | most of it found by | "
        "success before | after | accuracy before | after |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in record["cells"].items():
        attacker, seed = name.split("|")
        shares = [
            one["before"]["success"],
            one["after"]["success"],
            one["before"]["accuracy"],
            one["after"]["accuracy"],
        ]
        most = max(one["found_by"].values(), default=0) / 2
        by = ", ".join(search for search, found in one["found_by"].items() if found > most) or "–"
        lines.append(
            f"| {attacker} | {seed} | {one['level']} | {one['found']:.1%} | {one['clean_flagged']:.2%} | {by} | "
            + " | ".join(f"{share:.1%}" for share in shares)
            + " |"
        )
    about = f"{record['images']:,} images; {record['machine']['machine']}"
    return "\n".join([*lines, "", f"`python benchmarks/adaptive_attackers.py CIFAR10_TRAIN CIFAR10_TEST`, {about}.\n"])


def main() -> None:
    """Measure what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "adaptive_attackers.json")
    arguments = parser.parse_args()
    full, judged = ImageSet.load(arguments.train), ImageSet.load(arguments.test)
    train = at_most_per_class(full, arguments.images // len(full.class_names))
    order = torch.randperm(len(judged), generator=torch.Generator().manual_seed(0))
    reserved, test = judged.subset(order[:RESERVED].sort().values), judged.subset(order[RESERVED:].sort().values)
    record: dict[str, Any] = {"benchmark": "adaptive_attackers", "cells": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    record |= {"machine": describe_machine(), "images": len(train), "victim": "small network, 12 epochs"}
    for seed in range(arguments.seeds):
        for name, attacker in attackers(train.images).items():
            if (key := f"{name}|{seed}") not in record["cells"]:
                found = record["cells"][key] = measure(attacker, train, test, reserved, seed)
                write_record(arguments.output, record)
                print(key, json.dumps(found), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

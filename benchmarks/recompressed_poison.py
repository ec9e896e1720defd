"""Whether poison that was compressed once more still attacks, and whether the whole search then finds it.

    uv run python benchmarks/recompressed_poison.py CIFAR10_TRAIN CIFAR10_TEST

Contract: the set of `network_free.py`, 1,000 images of each class of a public JPEG copy of CIFAR-10, of which 1 % is
poisoned; the attacks are those that are hardly or not found there once their rows are compressed. Rows that the
attacker changed are compressed as JPEG at quality 75 or 90, or not at all. A small network learns the set without a
defense; success is the share of triggered test images, which are not compressed, that it misreads as the attacker
wants. Where compressed poison still has a tenth, the whole search of `puregen detect --budget 20m` looks at the set,
with 2,000 test images as clean ones and this network; found is the share of the poisoned rows that it flags or doubts.
Cells are kept in the output file: after a kill the same command goes on. About eight minutes a cell on a core of an AMD
EPYC without matrix units, and eight more where the set is searched.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from adaptive_attackers import RESERVED, counted, learn, search
from network_free import ATTACKS

from puregen_transforms.attacks import craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import at_most_per_class
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.victim import accuracy, poison_success

RESULTS = Path(__file__).parent / "results"
SHARE = 0.01
MISSED = "adaptive_blend", "adaptive_patch", "trojan, jittered"
QUALITIES = 75, None, 90
"""What tells most first; None does not compress."""
ATTACKS_FROM = 0.1


def measure(attack: str, quality: int | None, train: ImageSet, test: ImageSet, seed: int) -> dict[str, Any]:
    """Poison, train and judge."""
    name, settings = ATTACKS[attack]
    compressed: dict[str, Any] = {} if quality is None else {"reencode": quality}
    poison = craft(name, train, rate=SHARE, seed=seed, **settings, **compressed)
    images, labels = poison.apply_to_tensors(train.images, train.labels)
    victim = learn(images, labels, train, seed)
    success = poison_success(victim, poison, test.images, test.labels)
    measured = {
        "poisoned": int((~poison.covers).sum()),
        "accuracy": accuracy(victim, test.images, test.labels),
        "success": success,
    }
    if compressed and success >= ATTACKS_FROM:
        reserved = at_most_per_class(test, RESERVED // len(test.class_names))
        verdict = search(images, labels, train, reserved, seed, lambda suspects: victim)
        measured["verdict"] = counted(verdict, poison.ids[~poison.covers], poison.ids)
    return measured


def described(cell: dict[str, Any]) -> str:
    """Write success, accuracy in brackets, and what the whole search finds."""
    known = f"{cell['success']:.1%} ({cell['accuracy']:.1%})"
    verdict = cell.get("verdict")
    return known if verdict is None else f"{known}, {verdict['found']:.0%} found"


def markdown(record: dict[str, Any]) -> str:
    """Write the table: a line for each attack, with its success, the accuracy, and what is found, by compression."""
    cells = record["cells"]
    attacks = list(dict.fromkeys(name.split(" | ")[0] for name in cells))
    lines = ["| attack | as crafted | JPEG 90 | JPEG 75 |", "|---|---|---|---|"]
    for attack in attacks:
        shown = []
        for quality in (None, 90, 75):
            found = [cell for name, cell in cells.items() if name.startswith(f"{attack} | {quality} | ")]
            shown.append("; ".join(map(described, found)) or "–")
        lines.append(f"| {attack} | {' | '.join(shown)} |")
    command = "`python benchmarks/recompressed_poison.py CIFAR10_TRAIN CIFAR10_TEST`"
    return "\n".join([*lines, "", f"{command}; {record['machine']['machine']}.\n"])


def main() -> None:
    """Measure what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="measure cells alone whose name contains this")
    parser.add_argument("--output", type=Path, default=RESULTS / "recompressed_poison.json")
    arguments = parser.parse_args()
    full, test = ImageSet.load(arguments.train), ImageSet.load(arguments.test)
    train = at_most_per_class(full, 10_000 // len(full.class_names))
    record: dict[str, Any] = {"benchmark": "recompressed_poison", "cells": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    record |= {"machine": describe_machine(), "images": len(train)}
    for seed in range(arguments.seeds):
        for quality in QUALITIES:
            for attack in MISSED:
                key = f"{attack} | {quality} | {seed}"
                if key in record["cells"] or arguments.only not in key:
                    continue
                found = record["cells"][key] = measure(attack, quality, train, test, seed)
                write_record(arguments.output, record)
                print(key, json.dumps(found), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

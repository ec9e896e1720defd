"""What `puregen detect` says of photographs at 224 pixels, poisoned by triggers of that size.

    uv run python benchmarks/photograph_verdicts.py CLOTHING_TRAIN [--budget 2m 20m]

Contract: 3,068 photographs of clothing of ten classes, the shorter side resized to 224 pixels and the center cropped.
The target is the largest class, since SIG poisons images of its target alone. 1 % or 10 % of the set is poisoned:

- badnets: a checker of 24x24 pixels in a corner; blended: a picture at a fifth of its opacity; sig: stripes of
  amplitude 40; all drawn at 224 pixels.
- again, with every photograph saved as JPEG of quality 85 after the poisoning, as a website would.
- nothing: the photographs as they are.

The search has labels, and no clean images to compare with. Found is the share of poisoned images that are flagged or
doubtful, false the number of others. Seconds are of the whole search. Every verdict is kept as soon as it is there:
after a kill the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.attacks import Poison, craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import SuspectSet, search_set
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.jpeg import jpeg

RESULTS = Path(__file__).parent / "results"
SIDE, QUALITY = 224, 85
ATTACKS: tuple[str | None, ...] = (None, "badnets", "blended", "sig")
SHARES = (0.01, 0.1)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set that is judged.

    Args:
        attack: None leaves the set clean.
        share: of the set that is poisoned.
        saved_as_jpeg: whether all photographs are compressed after the poisoning.
        budget: of the search.
    """

    attack: str | None
    share: float
    saved_as_jpeg: bool
    budget: str

    @property
    def name(self) -> str:
        """Name it uniquely."""
        poison = f"{self.attack} {self.share:.0%}" if self.attack else "clean"
        return f"{poison}{', saved as JPEG' if self.saved_as_jpeg else ''} | {self.budget}"


def every_cell(budgets: list[str]) -> Iterator[Cell]:
    """List what is judged, the quick searches first."""
    for budget in budgets:
        for saved in (False, True):
            for attack in ATTACKS:
                for share in SHARES if attack else (0.0,):
                    yield Cell(attack=attack, share=share, saved_as_jpeg=saved, budget=budget)


def poisoned(photographs: ImageSet, cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    """Poison the photographs: their images, their labels, and the poisoned rows."""
    images, labels, rows = photographs.images, photographs.labels, torch.zeros(0, dtype=torch.int64)
    if cell.attack:
        target = int(labels.bincount().argmax())
        settings: dict[str, Any] = {"strength": 40.0} if cell.attack == "sig" else {}
        poison: Poison = craft(cell.attack, photographs, rate=cell.share, target_class=target, **settings)
        rows = poison.ids
        images, labels = poison.apply_to_tensors(images, labels)
    if cell.saved_as_jpeg:
        images = torch.cat([jpeg(part, QUALITY) for part in images.split(64)])
    return images, labels, rows


def judge(photographs: ImageSet, cell: Cell) -> dict[str, Any]:
    """Search one set, and count what was found."""
    images, labels, rows = poisoned(photographs, cell)
    started = time.perf_counter()
    suspects = SuspectSet(images=images, labels=labels, class_names=photographs.class_names)
    verdict = search_set(suspects, budget=cell.budget)
    seconds = time.perf_counter() - started
    called = verdict.flagged | verdict.doubtful
    found_by = {one.search.name: int(one.report.flagged[rows].sum()) for one in verdict.made}
    return {
        "level": verdict.level,
        "poisoned": len(rows),
        "found": int(called[rows].sum()),
        "false": int(called.sum() - called[rows].sum()),
        "found_by": {name: count for name, count in found_by.items() if count},
        "seconds": round(seconds, 1),
        "seconds_by": {one.search.name: round(one.report.seconds, 1) for one in verdict.made},
    }


def markdown(record: dict[str, Any]) -> str:
    """Write the table."""
    lines = [
        "| 3,068 photographs, 224 px | budget | verdict | poison found | by | others called | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in record["cells"].items():
        what, budget = name.split(" | ")
        found = f"{one['found']} of {one['poisoned']}" if one["poisoned"] else "–"
        by = ", ".join(f"{search} {count}" for search, count in one["found_by"].items()) or "–"
        lines.append(f"| {what} | {budget} | {one['level']} | {found} | {by} | {one['false']} | {one['seconds']:.0f} |")
    return "\n".join(lines) + f"\n\n`python benchmarks/photograph_verdicts.py clothing-train`; {record['machine']}.\n"


def main() -> None:
    """Judge what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", help="clothing photographs (Parquet)")
    parser.add_argument("--budget", nargs="+", default=["2m", "20m"])
    parser.add_argument("--only", default="", help="judge sets alone whose name contains this")
    parser.add_argument("--output", type=Path, default=RESULTS / "photograph_verdicts.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "photograph_verdicts", "cells": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    record |= describe_machine()
    photographs = ImageSet.load(arguments.photographs, size=SIDE)
    for cell in every_cell(arguments.budget):
        if cell.name in record["cells"] or arguments.only not in cell.name:
            continue
        found = record["cells"][cell.name] = judge(photographs, cell)
        write_record(arguments.output, record)
        print(cell.name, json.dumps(found), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

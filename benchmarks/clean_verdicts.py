"""What `puregen detect --budget 2m` says of sets without poison: every verdict but "nothing was found" is false.

    uv run python benchmarks/clean_verdicts.py

Contract: every search of the budget, with its limits as they are and without clean images to compare with, on

- CIFAR-10 test and Tiny ImageNet (40 classes, box-filtered to 32 pixels): the 109 sets of `inspect_false_alarms.py`,
  which are the whole sets, their fifths, and random subsets of 2,000, some of them without labels;
- 100 more random subsets of 2,000 of 10,000 images of CIFAR-10 train, every second without labels;
- clothing photographs, whole and in thirds, at 64 and at 224 pixels; the digits of scikit-learn, with and without
  labels.

Counted are sets that are called poisoned, doubtful, or made unlearnable, and images flagged. Images whose label does
not fit are no poison, and counted apart. Subsets of one set overlap, so they are not independent: the bound that is
given counts the sets that have no image in common. Sets whose file is missing are left out. Every verdict is kept as
soon as it is there: after a kill the same command goes on. An hour and a half on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from network_free import digits
from protocol import DATA, RESULTS
from unlearnable_verdicts import CIFAR10, CIFAR10_TEST, CLOTHING, TINY_IMAGENET, halved, part_of

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import at_most_per_class
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.verdict import NOTHING_FOUND
from puregen_transforms.detection.whole_search import search_set
from puregen_transforms.evaluate.records import describe_machine, write_record

BUDGET = "2m"
Load = Callable[[], ImageSet]


@dataclass(frozen=True, kw_only=True)
class CleanSet:
    """A set that is judged.

    Args:
        kind: of sets that are counted together.
        name: of this one.
        file: that it needs, "" for none.
        make: reads it.
        labels: whether the searches are given labels.
        alone: whether it has no image in common with others that are `alone`.
    """

    kind: str
    name: str
    file: str
    make: Load
    labels: bool = True
    alone: bool = False


@cache
def loaded(name: str, side: int | None = None) -> ImageSet:
    """Read a set, once."""
    return ImageSet.load(str(DATA / name), **({} if side is None else {"size": side}))


@cache
def small_tiny_imagenet() -> ImageSet:
    """Read Tiny ImageNet, box-filtered to 32 pixels."""
    return halved(partial(loaded, TINY_IMAGENET))


@cache
def small_train() -> ImageSet:
    """Read 1,000 images of each class of CIFAR-10 train."""
    return at_most_per_class(loaded(CIFAR10), 1000)


def random_subset(whole: Load, seed: int) -> ImageSet:
    """Draw 2,000 images of a set."""
    order = torch.randperm(len(whole()), generator=torch.Generator().manual_seed(seed))
    return whole().subset(order[:2000].sort().values)


def every_set() -> Iterator[CleanSet]:
    """List what is judged."""
    many: tuple[tuple[str, str, Load, int, int], ...] = (
        ("CIFAR-10 test", CIFAR10_TEST, partial(loaded, CIFAR10_TEST), 50, 10),
        ("Tiny ImageNet, 32 px", TINY_IMAGENET, small_tiny_imagenet, 25, 10),
    )
    for name, file, whole, subsets, unlabeled in many:
        for labels in (True, False):
            words = "" if labels else ", without labels"
            yield CleanSet(kind=f"{name}, whole{words}", name="", file=file, make=whole, labels=labels)
        for number in range(1, 6):
            make = partial(part_of, whole, number, 5)
            yield CleanSet(kind=f"{name}, fifths", name=str(number), file=file, make=make, alone=True)
        for seed in range(subsets + unlabeled):
            labels = seed < subsets
            kind = f"{name}, subsets of 2,000{'' if labels else ', without labels'}"
            yield CleanSet(
                kind=kind, name=str(seed), file=file, make=partial(random_subset, whole, seed), labels=labels
            )
    for seed in range(100):
        labels = seed % 2 == 0
        kind = f"CIFAR-10 train, subsets of 2,000{'' if labels else ', without labels'}"
        make = partial(random_subset, small_train, 1000 + seed)
        yield CleanSet(kind=kind, name=str(seed), file=CIFAR10, make=make, labels=labels)
    for side in (64, 224):
        whole = partial(loaded, CLOTHING, side)
        yield CleanSet(kind=f"clothing, {side} px, whole", name="", file=CLOTHING, make=whole)
        for number in range(1, 4):
            make = partial(part_of, whole, number, 3)
            kind = f"clothing, {side} px, thirds"
            yield CleanSet(kind=kind, name=str(number), file=CLOTHING, make=make, alone=side == 64)
    for labels in (True, False):
        kind = f"digits{'' if labels else ', without labels'}"
        yield CleanSet(kind=kind, name="", file="", make=digits, labels=labels, alone=labels)


def judge(chosen: CleanSet) -> dict[str, Any]:
    """Search a set, and say what was found."""
    given = chosen.make()
    labels = given.labels if chosen.labels else None
    names = given.class_names if chosen.labels else ()
    started = time.perf_counter()
    verdict = search_set(SuspectSet(images=given.images, labels=labels, class_names=names), budget=BUDGET)
    found = {
        one.search.name: int((one.report.flagged | one.doubtful).sum())
        for one in verdict.made
        if bool((one.report.flagged | one.doubtful).any())
    }
    return {
        "kind": chosen.kind,
        "alone": chosen.alone,
        "images": len(given),
        "level": verdict.level,
        "flagged": int(verdict.flagged.sum()),
        "doubtful": int(verdict.doubtful.sum()),
        "mislabeled": int(verdict.mislabeled.sum()),
        "found_by": found,
        "left_out": {one.search.name: one.why for one in verdict.left_out},
        "seconds": round(time.perf_counter() - started, 1),
    }


def markdown(record: dict[str, Any]) -> str:
    """Write the table, and the bound that the counts prove."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for one in record["sets"].values():
        kinds.setdefault(one["kind"], []).append(one)
    lines = [
        "| clean sets | judged | nothing found | other verdicts | images flagged | labels called wrong | s a set |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, found in kinds.items():
        wrong = [one["level"] for one in found if one["level"] != NOTHING_FOUND]
        flagged, mislabeled = (sum(one[key] for one in found) for key in ("flagged", "mislabeled"))
        share = mislabeled / sum(one["images"] for one in found)
        seconds = sum(one["seconds"] for one in found) / len(found)
        lines.append(
            f"| {kind} | {len(found)} | {len(found) - len(wrong)} | {', '.join(sorted(set(wrong))) or '–'} | {flagged} "
            f"| {share:.1%} | {seconds:.0f} |"
        )
    alone = [one for one in record["sets"].values() if one["alone"]]
    false = sum(one["level"] != NOTHING_FOUND for one in alone)
    lines += [
        "",
        f"Of {len(alone)} sets without a common image {false} had another verdict than that nothing was found",
    ]
    # The exact bound of a binomial share that no event was seen of: 1 - 0.05 ** (1 / n).
    lines[-1] += f": at most {1 - 0.05 ** (1 / len(alone)):.0%} of such sets, at 95 %." if alone and not false else "."
    lines.append(f"\n`{record['command']}`; {record['machine']}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judge what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "clean_verdicts.json")
    parser.add_argument("--only", default="", help="judge sets alone whose kind contains this")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"sets": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    record |= {"command": "python benchmarks/clean_verdicts.py", **describe_machine()}
    for chosen in every_set():
        key = f"{chosen.kind} {chosen.name}".strip()
        if key in record["sets"] or arguments.only not in chosen.kind:
            continue
        if chosen.file and not (DATA / chosen.file).exists():
            print(f"{key}: {chosen.file} is missing", file=sys.stderr)
            continue
        found = record["sets"][key] = judge(chosen)
        write_record(arguments.output, record)
        words = {name: found[name] for name in ("level", "flagged", "found_by", "seconds")}
        print(f"{key}: {json.dumps(words)}", flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

"""Whether `shortcuts`, by which `puregen detect` says "made unlearnable", says so of such sets, and of no clean one.

    uv run python benchmarks/unlearnable_verdicts.py

Contract: the search at its default limits, on

- made unlearnable: 10,000 images of a public JPEG copy of CIFAR-10, 1,000 of each class, all poisoned by each of the
  seven attacks, at its preset "cpu". Poisons are kept in `--runs`, and shared with `availability.py` there. Besides,
  5,000 images of Tiny ImageNet (40 classes) and 1,534 of clothing, at 64 pixels, by the four attacks that train
  nothing; and Tiny ImageNet at 32 pixels by one of those that train a network.
- clean: parts of CIFAR-10 without a common image, in color and in gray; parts of Tiny ImageNet at 64 pixels, and
  box-filtered to 32; of 140 other classes of it, drawn by twenty; clothing photographs at 32 and at 64 pixels; and the
  handwritten digits of scikit-learn, where that is installed. Hardest: textures, of twenty clothing photographs as many
  classes of 150 windows each.

Sets whose file is missing are left out. Every verdict is kept as soon as it is there: after a kill the same command
goes on. Clean sets take seconds each; what takes long is crafting by the attacks that train networks, and by `ntga`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from network_free import digits
from protocol import DATA, RESULTS, SOURCES

from puregen_transforms.attacks import ATTACKS, craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import detect
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import Cell
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.sets import load_sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.functional.images import gray_to_rgb, rgb_to_gray, to_pixels

CIFAR10, _ = SOURCES["train"]
CIFAR10_TEST, _ = SOURCES["test"]
TINY_IMAGENET, IMAGENET32, CLOTHING = (
    "tiny-imagenet-40-train.parquet",
    "imagenet32-140-train.parquet",
    "clothing-train.parquet",
)
UNLEARNABLE = tuple(name for name, about in ATTACKS.items() if about.availability)
CLASSES_DRAWN = 20
WINDOWS = 150
QUICK = ("lsp", "urp", "autoregressive", "one_pixel_shortcut")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One set that is judged.

    Args:
        name: of it, unique.
        kind: of sets; a row of the table.
        poisoned: whether it was made unlearnable.
        files: that it is made of; there is none of scikit-learn's digits.
        make: reads or crafts it.
    """

    name: str
    kind: str
    poisoned: bool = False
    files: tuple[str, ...] = ()
    make: Callable[[], ImageSet]

    @property
    def is_there(self) -> bool:
        """Whether it can be made here."""
        if not self.files:
            return find_spec("sklearn") is not None
        return all((DATA / file).exists() for file in self.files)


@cache
def loaded(file: str, size: int | None = None) -> ImageSet:
    """Read a file, once."""
    return ImageSet.load(str(DATA / file), size=size)


@cache
def digits_once() -> ImageSet:
    """Read the digits, once."""
    return digits()


def part_of(whole: Callable[[], ImageSet], number: int, parts: int) -> ImageSet:
    """Choose one of several parts of a set, drawn at random and without a common image; `number` is from 1."""
    order = torch.randperm(len(whole()), generator=torch.Generator().manual_seed(0))
    return whole().subset(order.chunk(parts)[number - 1].sort().values)


def some_classes(whole: Callable[[], ImageSet], seed: int) -> ImageSet:
    """Draw classes of a set."""
    found = whole()
    drawn = torch.randperm(len(found.class_names), generator=torch.Generator().manual_seed(seed))[:CLASSES_DRAWN]
    drawn = drawn.sort().values
    chosen = found.subset(torch.isin(found.labels, drawn))
    names = tuple(found.class_names[label] for label in drawn.tolist())
    return replace(chosen, labels=torch.searchsorted(drawn, chosen.labels), class_names=names)


def halved(whole: Callable[[], ImageSet]) -> ImageSet:
    """Box-filter 64 pixels to 32."""
    return replace(whole(), images=to_pixels(F.avg_pool2d(whole().images.float(), 2)), jpeg_quality=None)


def in_gray(whole: Callable[[], ImageSet]) -> ImageSet:
    """Take the colors away."""
    return replace(whole(), images=gray_to_rgb(rgb_to_gray(whole().images)).contiguous())


def windows(seed: int) -> ImageSet:
    """Cut 150 windows of 32 pixels from each of twenty photographs: classes of one texture each."""
    photographs, generator = loaded(CLOTHING, 224), torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(photographs), generator=generator)[:CLASSES_DRAWN]
    labels = torch.arange(CLASSES_DRAWN).repeat_interleave(WINDOWS)
    places = torch.randint(0, 224 - 32, (len(labels), 2), generator=generator).tolist()
    images = torch.stack(
        [
            photographs.images[rows[label], :, top : top + 32, left : left + 32]
            for label, (top, left) in zip(labels.tolist(), places, strict=True)
        ]
    )
    return ImageSet(images, labels, tuple(f"photograph {row}" for row in rows.tolist()))


def clean_sets() -> Iterator[Judged]:
    """List the sets without poison."""
    kinds: tuple[tuple[str, tuple[str, ...], Callable[[], ImageSet], int], ...] = (
        ("CIFAR-10", (CIFAR10,), partial(loaded, CIFAR10), 8),
        ("CIFAR-10 in gray", (CIFAR10_TEST,), partial(in_gray, partial(loaded, CIFAR10_TEST)), 2),
        ("Tiny ImageNet, 64 px", (TINY_IMAGENET,), partial(loaded, TINY_IMAGENET), 4),
        ("Tiny ImageNet, 32 px", (TINY_IMAGENET,), partial(halved, partial(loaded, TINY_IMAGENET)), 4),
        ("clothing, 32 px", (CLOTHING,), partial(loaded, CLOTHING, 32), 2),
        ("clothing, 64 px", (CLOTHING,), partial(loaded, CLOTHING, 64), 2),
        ("digits", (), digits_once, 2),
    )
    for kind, files, whole, parts in kinds:
        for number in range(1, parts + 1):
            make = partial(part_of, whole, number, parts)
            yield Judged(name=f"{kind}, part {number} of {parts}", kind=kind, files=files, make=make)
    for seed in range(3):
        kind, make = "20 classes of ImageNet, 32 px", partial(some_classes, partial(loaded, IMAGENET32), seed)
        yield Judged(name=f"{kind}, draw {seed}", kind=kind, files=(IMAGENET32,), make=make)
    for seed in range(3):
        kind = "textures, 32 px"
        yield Judged(name=f"{kind}, draw {seed}", kind=kind, files=(CLOTHING,), make=partial(windows, seed))


def poisoned_sets(runs: Path) -> Iterator[Judged]:
    """List the sets made unlearnable."""

    @cache
    def bench() -> Bench:
        sets = load_sets(str(DATA / CIFAR10), str(DATA / CIFAR10_TEST), scale=SCALES["cpu"])
        return Bench(sets, Store(runs), say=partial(print, flush=True))

    def crafted(name: str) -> ImageSet:
        clean = bench().sets.train
        poison = bench().poison(Cell(attack=attack(name, "cpu", name), victim=SCALES["cpu"].victim))
        assert poison is not None
        images, labels = poison.apply_to_tensors(clean.images, clean.labels)
        return replace(clean, images=images, labels=labels)

    for name in UNLEARNABLE:
        make = partial(crafted, name)
        yield Judged(name=f"{name}, all of it", kind=name, poisoned=True, files=(CIFAR10, CIFAR10_TEST), make=make)
    tiny = partial(part_of, partial(loaded, TINY_IMAGENET), 1, 4)
    clothing = partial(part_of, partial(loaded, CLOTHING, 64), 1, 2)
    others: tuple[tuple[str, str, Callable[[], ImageSet], tuple[str, ...]], ...] = (
        ("Tiny ImageNet, 64 px", TINY_IMAGENET, tiny, QUICK),
        ("clothing, 64 px", CLOTHING, clothing, QUICK),
        ("Tiny ImageNet, 32 px", TINY_IMAGENET, partial(halved, tiny), ("targeted_adversarial",)),
    )
    for of, file, whole, names in others:
        for name in names:
            kind = f"{name}, of {of}"
            yield Judged(name=kind, kind=kind, poisoned=True, files=(file,), make=partial(poisoned_by, name, whole))


def poisoned_by(name: str, whole: Callable[[], ImageSet]) -> ImageSet:
    """Make a set unlearnable by an attack at its preset "cpu"."""
    clean = whole()
    images, labels = craft(name, clean, preset="cpu").apply_to_tensors(clean.images, clean.labels)
    return replace(clean, images=images, labels=labels)


def judge(chosen: Judged) -> dict[str, Any]:
    """Search a set, and say what was found."""
    given = chosen.make()
    report = detect("shortcuts", given.images, given.labels, class_names=given.class_names, device="cpu")
    facts = [one.facts for one in report.classes if "readable" in one.facts]
    return {
        "kind": chosen.kind,
        "poisoned": chosen.poisoned,
        "images": len(given),
        "side": given.size[0],
        "made_unlearnable": bool(report.flagged.all()),
        "readable": fmean(one["readable"] for one in facts),
        "coarse": fmean(one["coarse"] for one in facts),
        "seconds": round(report.seconds, 2),
    }


def markdown(record: dict[str, Any]) -> str:
    """Write a line for each kind of sets, and count the verdicts."""
    verdicts = record["verdicts"]
    head = ["sets", "number", "called made unlearnable", "labels read", "from coarse images", "seconds at most"]
    lines = [head, ["---"] * len(head)]
    for kind in dict.fromkeys(one["kind"] for one in verdicts.values()):
        found = [one for one in verdicts.values() if one["kind"] == kind]
        readable, coarse = (f"{fmean(one[name] for one in found):.0%}" for name in ("readable", "coarse"))
        most = f"{max(one['seconds'] for one in found):.1f}"
        called = sum(one["made_unlearnable"] for one in found)
        lines.append([kind, str(len(found)), str(called), readable, coarse, most])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    counts = []
    for poisoned, words in ((True, "sets made unlearnable are called so"), (False, "clean sets are")):
        found = [one for one in verdicts.values() if one["poisoned"] == poisoned]
        counts.append(f"{sum(one['made_unlearnable'] for one in found)} of {len(found)} {words}")
    return f"{table}\n\n{'; '.join(counts)}. `{record['command']}`; {record['machine']}.\n"


def main() -> None:
    """Judge what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="judge sets alone whose name contains this")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"), help="folder of crafted poisons")
    parser.add_argument("--output", type=Path, default=RESULTS / "unlearnable_verdicts.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "unlearnable_verdicts", "verdicts": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text(encoding="utf-8"))
    record |= {"command": "python benchmarks/unlearnable_verdicts.py", **describe_machine()}
    for chosen in (*clean_sets(), *poisoned_sets(arguments.runs)):
        if chosen.name in record["verdicts"] or arguments.only not in chosen.name:
            continue
        if not chosen.is_there:
            print(f"{chosen.name}: left out, its images are not here", file=sys.stderr)
            continue
        record["verdicts"][chosen.name] = judge(chosen)
        write_record(arguments.output, record)
        print(chosen.name, json.dumps(record["verdicts"][chosen.name]), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

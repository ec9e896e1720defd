"""What the detectors without a network find, at which share of poison, and whether they cry wolf.

    uv run python benchmarks/network_free.py CIFAR10_TRAIN TINY_IMAGENET_TRAIN [--clothing CLOTHING_TRAIN] [--seeds 3]

Contract: `stamps`, `patches`, `residual_patterns` and `stripes` search two sets of 10,000 images of 32x32 pixels, with
labels: 1,000 of each class of a public JPEG copy of CIFAR-10, and 250 of each of 40 classes of Tiny ImageNet,
box-filtered to 32 pixels, without a JPEG grid. Only the searches are timed, on this machine's threads.

- poisoned: every attack at 0.3 %, 1 % and 10 % of the set, several seeds, and at 0.1 %, one; published settings
  (clean_label: as in its preset "smoke", narcissus: "cpu"). Found is the share of poisoned rows that a detector flags,
  or that any does; covers, which carry the trigger too, are counted apart; false are flagged rows that are neither.
  Clean-label attacks cannot poison more than their target class has: such cells have the error in place of figures.
- recompressed: the same at 1 %, poisoned rows compressed as JPEG at quality 90 and 75.
- clean: random subsets of 2,000 rows of both sets, half of them without labels; the whole sets, as they are, with 5 %
  of wrong labels and in gray; handwritten digits of scikit-learn, enlarged; clothing photographs, whole and in parts,
  at 64 and at 224 pixels. Whatever is flagged there is a false alarm.

Every cell is kept as soon as it is measured: after a kill the same command goes on. About three hours on two idle
cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms._progress import silent
from puregen_transforms.attacks import Poison, craft
from puregen_transforms.attacks.attack import Attacker
from puregen_transforms.attacks.registry import find_attack
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import at_most_per_class
from puregen_transforms.detection import DetectionReport, detect
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.jpeg import jpeg

RESULTS = Path(__file__).parent / "results"
DETECTORS = ("stamps", "patches", "residual_patterns", "stripes")
SHARES, SMALLEST = (0.003, 0.01, 0.1), 0.001
QUALITIES = 90, 75
FOUND = 0.9
"""Of the poison, from which on a share counts as found."""

ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "badnets": ("badnets", {}),
    "badnets, all-to-all": ("badnets", {"goal": "all_to_all", "target_class": None}),
    "badnets, untargeted": ("badnets", {"goal": "untargeted", "target_class": None}),
    "badnets, jittered": ("badnets", {"jitter": 4}),
    "trojan": ("trojan", {}),
    "trojan, jittered": ("trojan", {"jitter": 4}),
    "tact": ("tact", {}),
    "clean_label": ("clean_label", {"preset": "smoke"}),
    "blended": ("blended", {}),
    "blended, all-to-all": ("blended", {"goal": "all_to_all", "target_class": None}),
    "sig": ("sig", {}),
    "adaptive_blend": ("adaptive_blend", {}),
    "adaptive_patch": ("adaptive_patch", {}),
    "wanet": ("wanet", {}),
}
NARCISSUS = {"narcissus, ε 16": 16.0, "narcissus, ε 8": 8.0}
"""Its noise is optimized on a network, one for each set: once for each seed, and put onto fewer rows for less."""
PUBLIC = {"cifar10": "tiny_imagenet", "tiny_imagenet": "cifar10"}
"""Where the attacker of Narcissus learns from."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set that is searched.

    Args:
        data: name of the set.
        attack: out of `ATTACKS` or `NARCISSUS`; None leaves the set clean.
        share: of the set that is poisoned.
        seed: of the attack, or of the choice of rows.
        reencode: quality of JPEG of the poisoned rows.
        change: what is done to a clean set.
        labels: whether the detectors are given labels.
    """

    data: str
    attack: str | None = None
    share: float = 0.0
    seed: int = 0
    reencode: int | None = None
    change: str = ""
    labels: bool = True

    @property
    def name(self) -> str:
        """Name it uniquely."""
        if self.attack is None:
            return f"{self.data} | clean {self.change} | {'' if self.labels else 'no labels '}| {self.seed}"
        again = "" if self.reencode is None else f", JPEG {self.reencode}"
        return f"{self.data} | {self.attack}{again} | {self.share:g} | {self.seed}"


def every_cell(seeds: int, clothing: bool) -> Iterator[Cell]:
    """List what is measured, the clean sets first."""
    for data in ("cifar10", "tiny_imagenet"):
        for change in ("whole", "5 % wrong labels", "gray"):
            yield Cell(data=data, change=change)
        for number in range(100):
            yield Cell(data=data, change="subset of 2000", seed=number, labels=number % 2 == 0)
    yield Cell(data="digits", change="whole")
    yield Cell(data="digits", change="whole", labels=False)
    for side in (64, 224) if clothing else ():
        for change in ("whole", *(f"part {number} of 3" for number in (1, 2, 3))):
            yield Cell(data=f"clothing{side}", change=change)
    for seed, data in product(range(seeds), ("cifar10", "tiny_imagenet")):
        for attack in (*ATTACKS, *NARCISSUS):
            for share in (SMALLEST, *SHARES) if seed == 0 else SHARES:
                yield Cell(data=data, attack=attack, share=share, seed=seed)
            for quality in QUALITIES if seed == 0 else ():
                yield Cell(data=data, attack=attack, share=0.01, reencode=quality)


class Data:
    """The sets, each read when it is first asked for."""

    def __init__(self, cifar10: str, tiny_imagenet: str, clothing: str | None) -> None:
        self._paths = {"cifar10": cifar10, "tiny_imagenet": tiny_imagenet, "clothing": clothing}
        self._read: dict[str, ImageSet] = {}
        self._crafted: dict[tuple[str, float, int], Poison] = {}
        self._surrogates: dict[str, list[nn.Module]] = {}

    def __getitem__(self, name: str) -> ImageSet:
        if name not in self._read:
            self._read[name] = self._load(name)
        return self._read[name]

    def narcissus(self, name: str, epsilon: float, seed: int) -> Poison:
        """Craft the noise of Narcissus for a set, on every row of its class."""
        key, whole = (name, epsilon, seed), self[name]
        if key not in self._crafted:
            attack = find_attack("narcissus")
            share = int(whole.labels.bincount()[0]) / len(whole)
            settings = attack.config.preset("cpu", epsilon=epsilon, rate=share)
            attacker = Attacker(
                seed=seed, given={"public": self[PUBLIC[name]]}, train=lambda asked: self._surrogate(name, asked)
            )
            self._crafted = {key: attack.craft(whole, settings, attacker)}
        return self._crafted[key]

    def _surrogate(self, name: str, asked: Surrogates) -> list[nn.Module]:
        """Train the surrogate of a set once: it serves any seed and epsilon."""
        if name not in self._surrogates:
            self._surrogates[name] = asked.train(seed=0, device="cpu", progress=silent)
        return self._surrogates[name]

    def _load(self, name: str) -> ImageSet:
        if name == "digits":
            return digits()
        if name.startswith("clothing"):
            return ImageSet.load(str(self._paths["clothing"]), size=int(name.removeprefix("clothing")))
        full = ImageSet.load(str(self._paths[name]))
        chosen = at_most_per_class(full, 10_000 // len(full.class_names))
        if chosen.size == (32, 32):
            return chosen
        small = F.interpolate(chosen.images.float(), size=(32, 32), mode="area").round().to(torch.uint8)
        return replace(chosen, images=small, jpeg_quality=None)


def digits() -> ImageSet:
    """Enlarge the 1,797 handwritten digits of scikit-learn to 32 pixels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    gray = torch.from_numpy(found.images).float().mul(255 / 16)[:, None].expand(-1, 3, -1, -1)
    images = F.interpolate(gray, size=(32, 32), mode="bicubic").round().clamp(0, 255).to(torch.uint8)
    return ImageSet(images, torch.from_numpy(found.target).long(), tuple(map(str, range(10))))


def clean_set(whole: ImageSet, cell: Cell) -> ImageSet:
    """Change a set without poisoning it."""
    generator = torch.Generator().manual_seed(cell.seed)
    order = torch.randperm(len(whole), generator=generator)
    if cell.change == "subset of 2000":
        return whole.subset(order[:2000].sort().values)
    if cell.change.startswith("part"):
        return whole.subset(order.chunk(3)[int(cell.change.split()[1]) - 1].sort().values)
    if cell.change == "gray":
        gray = whole.images.float().mean(1, keepdim=True).round().to(torch.uint8)
        return replace(whole, images=gray.expand(-1, 3, -1, -1).contiguous())
    if cell.change == "5 % wrong labels":
        labels, rows = whole.labels.clone(), order[: len(whole) // 20]
        labels[rows] = torch.randint(len(whole.class_names), (len(rows),), generator=generator)
        return replace(whole, labels=labels)
    return whole


def poisoned_set(cell: Cell, data: Data) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Poison a set: its images, its labels, the poisoned rows, and the covers.

    Raises:
        ValueError: the attack cannot poison so many.
    """
    whole = data[cell.data]
    assert cell.attack is not None
    if cell.attack not in NARCISSUS:
        attack, settings = ATTACKS[cell.attack]
        varied = {} if cell.reencode is None else {"reencode": cell.reencode}
        poison = craft(attack, whole, rate=cell.share, seed=cell.seed, **settings, **varied)
        images, labels = poison.apply_to_tensors(whole.images, whole.labels)
        return images, labels, poison.ids[~poison.covers], poison.ids[poison.covers]
    poison = data.narcissus(cell.data, NARCISSUS[cell.attack], cell.seed)
    count = round(cell.share * len(whole))
    if count > len(poison.ids):
        raise ValueError(f"Expected at most {len(poison.ids)} rows of its class to be poisoned, but got {count}.")
    order = torch.randperm(len(poison.ids), generator=torch.Generator().manual_seed(cell.seed))
    rows = poison.ids[order[:count]].sort().values
    noisy, images = poison.apply_to_tensors(whole.images, whole.labels)[0][rows], whole.images.clone()
    images[rows] = noisy if cell.reencode is None else jpeg(noisy, cell.reencode)
    return images, whole.labels, rows, rows[:0]


def measure(cell: Cell, data: Data) -> dict[str, Any]:
    """Search one set with every detector."""
    poisoned = covers = torch.zeros(0, dtype=torch.int64)
    if cell.attack is None:
        chosen = clean_set(data[cell.data], cell)
        images, labels = chosen.images, chosen.labels
    else:
        try:
            images, labels, poisoned, covers = poisoned_set(cell, data)
        except ValueError as error:
            return {"not_crafted": str(error)}
    reports = {name: detect(name, images, labels if cell.labels else None, device="cpu") for name in DETECTORS}
    by_any = torch.stack([report.flagged for report in reports.values()]).any(0)
    rows: dict[str, Any] = {"images": len(images), "poisoned": len(poisoned), "covers": len(covers)}
    for name, report in reports.items():
        rows[name] = {**counted(report.flagged, poisoned, covers), "seconds": round(report.seconds, 2)}
        rows[name]["marks"] = [described(report, number) for number in range(len(report.marks))]
    return {**rows, "any": counted(by_any, poisoned, covers)}


def counted(flagged: Tensor, poisoned: Tensor, covers: Tensor) -> dict[str, int]:
    """Count the flagged rows of each kind."""
    found, covered = int(flagged[poisoned].sum()), int(flagged[covers].sum())
    return {"found": found, "covers": covered, "false": int(flagged.sum()) - found - covered}


def described(report: DetectionReport, number: int) -> dict[str, Any]:
    """Describe a mark in one line of JSON."""
    mark = report.marks[number]
    return {"kind": mark.kind, "carriers": len(mark.rows), "ratio": round(mark.ratio, 2), "says": mark.evidence.verdict}


def markdown(record: dict[str, Any]) -> str:
    """Write the tables: poison found by attack and share, and false alarms on clean sets."""
    poisoned: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    clean: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name, found in record["cells"].items():
        data, attack, share = (part.strip() for part in name.split("|")[:3])
        if attack.startswith("clean "):
            clean.setdefault((data, attack), []).append(found)
        elif "any" in found:
            attack, _, again = attack.partition(", JPEG ")
            column = f"JPEG {again}" if again else share
            poisoned.setdefault((data, attack), {}).setdefault(column, []).append(found)
    command = "python benchmarks/network_free.py CIFAR10_TRAIN TINY_IMAGENET_TRAIN --clothing CLOTHING_TRAIN"
    about = f"`{command}`; {record['machine']['machine']}.\n"
    return "\n".join([_poison_table(poisoned), _clean_table(clean), about])


def _poison_table(groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]]) -> str:
    columns = [*(f"{share:g}" for share in (SMALLEST, *SHARES)), *(f"JPEG {quality}" for quality in QUALITIES)]
    titles = [*(f"{share:g} %" for share in (100 * SMALLEST, *(100 * share for share in SHARES))), *columns[-2:]]
    lines = [
        f"| set | attack | {' | '.join(titles)} | smallest share found | clean images flagged, at most |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for (data, attack), found in groups.items():
        shares = {column: _shown([_share([one], "any") for one in cells]) for column, cells in found.items()}
        least = {
            name: min(shares_of)
            for name in DETECTORS
            if (shares_of := [float(one) for one in columns[:-2] if one in found and _share(found[one], name) >= FOUND])
        }
        by = ", ".join(f"{name} {100 * share:g} %" for name, share in least.items())
        by = by or ("none" if any(one in found for one in columns[:-2]) else "")
        wrong = max(one["any"]["false"] for cells in found.values() for one in cells)
        values = " | ".join(shares.get(column, "") for column in columns)
        lines.append(f"| {data} | {attack} | {values} | {by} | {wrong} |")
    return "\n".join(lines) + "\n"


def _shown(shares: list[float]) -> str:
    """Write the mean of some shares in percent, and their range where they differ."""
    mean, least, most = (f"{100 * one:.0f}" for one in (sum(shares) / len(shares), min(shares), max(shares)))
    return mean if least == most else f"{mean} ({least}–{most})"


def _share(cells: list[dict[str, Any]], detector: str) -> float:
    """Compute which share of the poisoned rows a detector found, over all seeds."""
    return sum(one[detector]["found"] for one in cells) / sum(one["poisoned"] for one in cells)


def _clean_table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    lines = [
        "| clean set | searched | with a flagged image | images flagged | seconds at most |",
        "|---|---|---|---|---|",
    ]
    for (data, change), found in groups.items():
        rows = [one["any"]["false"] for one in found]
        most = max(sum(one[name]["seconds"] for name in DETECTORS) for one in found)
        lines.append(
            f"| {data}, {change.removeprefix('clean ')} | {len(found)} | {sum(count > 0 for count in rows)} | "
            f"{sum(rows)} | {most:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("tiny_imagenet", help="Tiny ImageNet images (Parquet)")
    parser.add_argument("--clothing", help="clothing photographs (Parquet)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure cells alone whose name contains this")
    parser.add_argument("--output", type=Path, default=RESULTS / "network_free.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "network_free", "cells": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    record |= {"machine": describe_machine(), "seeds": arguments.seeds}
    data = Data(arguments.cifar10, arguments.tiny_imagenet, arguments.clothing)
    for cell in every_cell(arguments.seeds, arguments.clothing is not None):
        if cell.name in record["cells"] or arguments.only not in cell.name:
            continue
        found = record["cells"][cell.name] = measure(cell, data)
        write_record(arguments.output, record)
        print(cell.name, json.dumps(found.get("any", found)), flush=True)
    print(markdown(record))


if __name__ == "__main__":
    main()

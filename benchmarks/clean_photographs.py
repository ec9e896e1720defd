"""A folder of poisoned photographs, cleaned by one command: what it leaves out, and the same after it was killed.

    uv run python benchmarks/clean_photographs.py CLOTHING_TRAIN [--budget 2m] [--only SECTION ...]

Contract: 3,068 photographs of clothing of ten classes, the shorter side resized to 224 pixels and the center cropped,
as a folder of PNG files by class. On 5 % of them lies a checker of 24x24 pixels, with the label of the largest class
(badnets). On 2 % of the set, all of the second largest class, lies one pattern of at most 16/255 that pulls photographs
towards that class in the features of EfficientNet-Lite0, as Narcissus makes it (`photograph_quality.craft`).

- cleaned: `puregen clean SRC DST` without any clean images to compare with. Poison left out, of each kind; other images
  left out; images that torchvision's `ImageFolder` finds and opens in the copy.
- killed: the same again, killed five times by SIGKILL, each time after 5 to 20 % of the time that it took before;
  whether the copy has the same bytes.

Sections are kept in the record, by budget. CPU, packaged networks, seed 0.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from photograph_quality import SIDE, STEPS, Judge, kept_trigger
from PIL import Image
from torchvision.datasets import ImageFolder
from whole_sets import digest_of, kill

from puregen_transforms.attacks import craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.hub.backbones import load_backbone

RESULT = Path(__file__).parent / "results/clean_photographs.json"
BADNETS, NARCISSUS = 0.05, 0.02
KILLS = 5


class Work:
    """The poisoned folder and its copies.

    Args:
        photographs: the set, as Parquet.
        folder: where everything is kept.
        budget: of the search.
        steps: in which the pattern is made.
    """

    def __init__(self, photographs: str, folder: Path, budget: str, steps: int) -> None:
        self.budget, self.source, self._rows = budget, folder / "photographs", folder / "poisoned.json"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not self._rows.exists():
            shutil.rmtree(self.source, ignore_errors=True)
            self._rows.write_text(json.dumps(write_folder(photographs, self.source, folder / "trigger", steps)))

    def copy(self, name: str) -> Path:
        """Name a copy."""
        return self._folder / f"{name}-{self.budget}"

    def poisoned(self) -> dict[str, list[str]]:
        """List the poisoned files, by attack."""
        found: dict[str, list[str]] = json.loads(self._rows.read_text())
        return found

    def start(self, copy: Path) -> subprocess.Popen[bytes]:
        """Start the cleaning, as a user would."""
        words = ["clean", str(self.source), str(copy), "--budget", self.budget, "--device", "cpu"]
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "puregen_transforms", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def write_folder(photographs: str, folder: Path, trigger: Path, steps: int) -> dict[str, list[str]]:
    """Poison photographs and write them, a folder for each class; the poisoned files, by attack."""
    whole = ImageSet.load(photographs, size=SIDE)
    largest, second = whole.labels.bincount().argsort(descending=True)[:2].tolist()
    stamped = craft("badnets", whole, rate=BADNETS, target_class=largest, seed=0)
    images, labels = stamped.apply_to_tensors(whole.images, whole.labels)
    pattern = kept_trigger(trigger, Judge(load_backbone(), whole), whole, second, steps)
    free = ((whole.labels == second) & ~torch.isin(torch.arange(len(whole)), stamped.ids)).nonzero().flatten()
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0))
    rows = free[order[: round(NARCISSUS * len(whole))]].sort().values
    images[rows] = to_pixels(images[rows].float() + pattern)
    names = [f"{whole.class_names[label]}/{row:05}.png" for row, label in enumerate(labels.tolist())]
    for image, name in zip(images, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / name, compress_level=1)
    return {
        attack: [names[row] for row in some.tolist()]
        for attack, some in (("badnets", stamped.ids), ("narcissus", rows))
    }


def cleaned(work: Work, _: dict[str, Any]) -> dict[str, Any]:
    """Clean the folder, and count what is left out."""
    started, copy = time.monotonic(), work.copy("cleaned")
    if code := work.start(copy).wait():
        raise RuntimeError(f"Expected the cleaning to end well, but its exit code is {code}.")
    seconds = time.monotonic() - started
    opened = ImageFolder(str(copy))
    kept = {Path(path).relative_to(copy).as_posix() for path, _ in opened.samples}
    for picture, _ in opened:
        picture.load()
    names = {path.relative_to(work.source).as_posix() for path in work.source.rglob("*.png")}
    poisoned = work.poisoned()
    clean = names - {name for some in poisoned.values() for name in some}
    return {
        "seconds": round(seconds, 1),
        "opened": len(kept),
        "poisoned": {attack: len(some) for attack, some in poisoned.items()},
        "left_out": {attack: sum(name not in kept for name in some) for attack, some in poisoned.items()},
        "clean": len(clean),
        "clean_left_out": len(clean - kept),
    }


def killed(work: Work, found: dict[str, Any]) -> dict[str, Any]:
    """Clean the folder again, killed on the way, and compare the bytes."""
    draw, copy, kills = random.Random(0), work.copy("killed"), 0  # noqa: S311
    for _ in range(KILLS):
        process = work.start(copy)
        try:
            process.wait(draw.uniform(0.05, 0.2) * found["cleaned"]["seconds"])
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
    if code := work.start(copy).wait():
        raise RuntimeError(f"Expected the cleaning to end well, but its exit code is {code}.")
    return {"kills": kills, "same_bytes": digest_of(copy) == digest_of(work.copy("cleaned"))}


SECTIONS: dict[str, Callable[[Work, dict[str, Any]], dict[str, Any]]] = {"cleaned": cleaned, "killed": killed}


def markdown(record: dict[str, Any]) -> str:
    """Write a line for each budget."""
    lines = [
        "| budget | badnets left out | Narcissus-like left out | other images left out | "
        "opened by ImageFolder | seconds | killed on the way |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget, found in record["budgets"].items():
        one, again = found["cleaned"], found.get("killed")
        out = [f"{one['left_out'][attack]} of {count}" for attack, count in one["poisoned"].items()]
        same = (
            "–" if again is None else f"{again['kills']} times: {'same' if again['same_bytes'] else '**other**'} bytes"
        )
        lines.append(
            f"| {budget} | {out[0]} | {out[1]} | {one['clean_left_out']} of {one['clean']:,} | {one['opened']:,} | "
            f"{one['seconds']:.0f} | {same} |"
        )
    about = f"`python benchmarks/clean_photographs.py clothing-train`, seed 0; {record['machine']}."
    return "\n".join([*lines, "", about]) + "\n"


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", help="clothing photographs (Parquet)")
    parser.add_argument("--budget", default="2m", help="of the search")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--steps", type=int, default=STEPS, help="in which the pattern is made")
    parser.add_argument("--work", type=Path, default=Path("runs/clean-photographs"), help="folder for all copies")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "clean_photographs", "budgets": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    work = Work(arguments.photographs, arguments.work.resolve(), arguments.budget, arguments.steps)
    kept = record["budgets"].setdefault(arguments.budget, {})
    for name in arguments.only:
        kept[name] = SECTIONS[name](work, kept)
        print(name, json.dumps(kept[name]), flush=True)
        write_record(arguments.output, record | describe_machine())
    print(markdown(record | describe_machine()))


if __name__ == "__main__":
    main()

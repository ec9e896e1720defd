"""How far apart the sides of clean classes lie for `class_split`, so that its limits are set on other images.

    uv run python benchmarks/class_split_null.py

Contract: clean sets that are in none of the tables of attacks: twenty classes drawn from 140 of ImageNet at 32 px,
three times (450 images to learn and 50 references of each), twenty classes of Tiny ImageNet at 64 px (400 and 100), and
ten of photographs of clothing at 64 px (references: a tenth of each class). On each, small victims (12 epochs, seeds 0,
1 and 2 over the draws), searched with references and without. Reported of every class: the largest distance of its
sides, and, of splits from which on references are asked, the smallest chance. None is poisoned: whatever a limit lets
through would be a false alarm.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from protocol import DATA, RESULTS

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.activations import read_activations
from puregen_transforms.detection.class_split import ClassSplit, loss_under_changes, spaces_of
from puregen_transforms.detection.network import train_network
from puregen_transforms.detection.split_search import search_class
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.store import Store

SETS = (
    # name, file, size, classes, references of each class, seed
    ("ImageNet 32 px, first draw", "imagenet32-140-train.parquet", 32, 20, 50, 0),
    ("ImageNet 32 px, second draw", "imagenet32-140-train.parquet", 32, 20, 50, 1),
    ("ImageNet 32 px, third draw", "imagenet32-140-train.parquet", 32, 20, 50, 2),
    ("Tiny ImageNet 64 px", "tiny-imagenet-40-train.parquet", 64, 20, 100, 0),
    ("clothing 64 px", "clothing-train.parquet", 64, 10, 20, 0),
)


def drawn(path: Path, size: int, classes: int, references: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Draw classes, and part each into images to learn and references."""
    full = ImageSet.load(str(path), size=size)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(full.class_names), generator=generator)[:classes].tolist()
    learned, clean = [], []
    for label in chosen:
        rows = (full.labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        learned.append(rows[references:])
        clean.append(rows[:references])

    def part(rows: list[torch.Tensor]) -> ImageSet:
        labels = torch.cat([torch.full_like(one, number) for number, one in enumerate(rows)])
        return ImageSet(full.images[torch.cat(rows)], labels, tuple(full.class_names[label] for label in chosen))

    return part(learned), part(clean)


def classes_of(learned: ImageSet, clean: ImageSet, seed: int) -> dict[str, Any]:
    """Train a victim, and search every class: its distances and chances."""
    network = train_network(learned.images, learned.labels, classes=len(learned.class_names), seed=seed)
    device = torch.device("cpu")
    own = read_activations(network, learned.images, device=device)
    references = read_activations(network, clean.images, device=device)
    witness = loss_under_changes(
        network, learned.images, learned.labels, own.logits, device=device, progress=lambda *about: None
    )
    right = references.logits.argmax(1) == clean.labels
    found: dict[str, Any] = {"accuracy": float(right.double().mean()), "classes": []}
    least = ClassSplit().least
    for label, name in enumerate(learned.class_names):
        rows = (learned.labels == label).nonzero().flatten()
        others = (learned.labels != label).nonzero().flatten()
        others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(0))[:500]]
        with_clean = search_class(
            spaces_of(own, rows, references, (clean.labels == label).nonzero().flatten(), same_class=True),
            witness[rows],
            seed=0,
        )
        without = search_class(spaces_of(own, rows, own, others, same_class=False), witness[rows], seed=0)
        chances = [one.chance for one in with_clean if one.distance >= least and one.chance is not None]
        found["classes"].append(
            {
                "name": name,
                "images": len(rows),
                "distance": max((one.distance for one in with_clean), default=0.0),
                "distance_without": max((one.distance for one in without), default=0.0),
                "chance": min(chances, default=1.0),
            }
        )
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--output", type=Path, default=RESULTS / "class_split_null.json")
    arguments = parser.parse_args()
    store, sets = Store(arguments.runs), {}
    for name, file, size, classes, references, seed in SETS:
        learned, clean = drawn(DATA / file, size, classes, references, seed)
        compute = partial(classes_of, learned, clean, seed)
        key = [file, size, classes, references, seed, ClassSplit.version]
        found = store.record("class-split-null", key, compute)
        sets[name] = found
        distances = sorted(one["distance"] for one in found["classes"])
        chance = min(one["chance"] for one in found["classes"])
        text = f"accuracy {found['accuracy']:.1%}, distances to {distances[-1]:.2f}, chance {chance:.1e}"
        print(f"{name}: {text}", flush=True)
    command = "python benchmarks/class_split_null.py"
    write_record(arguments.output, {"command": command, **describe_machine(), "sets": sets})


if __name__ == "__main__":
    main()

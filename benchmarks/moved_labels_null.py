"""How near clean sets come to what `moved_labels` takes for moved labels where no clean images are given.

    uv run python benchmarks/moved_labels_null.py CIFAR10_TRAIN TINY_IMAGENET_TRAIN IMAGENET32_TRAIN CLOTHING_TRAIN

Contract: features of 10,000 images each of CIFAR-10, of Tiny ImageNet (box-filtered to 32 pixels) and of 140 classes of
ImageNet at 32 pixels, and of all clothing photographs at 64 pixels, are read once. Of each, 40 sets are drawn: of 3, 5,
10 or 20 classes; of 2,000 rows; whole, with 2, 5, 10 or 20 % of random labels; with classes thinned to between a tenth
and all of their images. In none of them do labels name one class on purpose: any class that stands out is a false
alarm. The second part moves 0.5, 1, 2, 3 and 5 % of the rows of CIFAR-10 and Tiny ImageNet to one class, without a
trigger, three times. Reported is the least chance of any class, and what is flagged. Ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from network_free import Data
from torch import Tensor

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import DetectionReport, SuspectSet, moved_labels
from puregen_transforms.detection.frozen_features import read_features, side_for
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.hub.backbones import load_backbone

RESULTS = Path(__file__).parent / "results"
DRAWS, IMAGES = 40, 10_000
CLASSES, WRONG, MOVED = (3, 5, 10, 20), (0.02, 0.05, 0.1, 0.2), (0.005, 0.01, 0.02, 0.03, 0.05)


def clean_sets(labels: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Draw rows, and labels of all rows, of sets in which nothing was moved on purpose."""
    names = labels.unique()
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        rows, given, step = torch.arange(len(labels)), labels.clone(), draw // 4 % 4
        if draw % 4 == 0:
            chosen = names[torch.randperm(len(names), generator=generator)[: CLASSES[step]]]
            yield f"{CLASSES[step]} classes", torch.isin(labels, chosen).nonzero().flatten(), given
        elif draw % 4 == 1:
            yield "2,000 rows", torch.randperm(len(labels), generator=generator)[:2000], given
        elif draw % 4 == 2:
            wrong = torch.randperm(len(labels), generator=generator)[: int(WRONG[step] * len(labels))]
            given[wrong] = names[torch.randint(len(names), (len(wrong),), generator=generator)]
            yield f"{100 * WRONG[step]:g} % random labels", rows, given
        else:
            kept = 0.1 + 0.9 * torch.rand(len(names), generator=generator)
            chance = torch.rand(len(labels), generator=generator)
            yield "classes of uneven sizes", rows[chance < kept[torch.searchsorted(names, labels)]], given


def searched(features: Tensor, labels: Tensor) -> DetectionReport:
    """Search a set whose features are known."""
    suspects = SuspectSet(images=torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8), labels=labels)
    with patch.object(moved_labels, "read_features", lambda *_, **__: features):
        return moved_labels.MovedLabels().detect(suspects)


def measure(features: Tensor, labels: Tensor) -> dict[str, Any]:
    """Search every clean set: how many there are of each kind, how many were flagged, and the least chance."""
    found: dict[str, dict[str, Any]] = {}
    for kind, rows, given in clean_sets(labels):
        report = searched(features[rows], given[rows])
        one = found.setdefault(kind, {"sets": 0, "flagged": 0, "least chance": 1.0})
        one["sets"] += 1
        one["flagged"] += bool(report.flagged.any())
        chances = [float(facts) for one in report.classes if (facts := one.facts["chance"]) is not None]
        one["least chance"] = min(one["least chance"], *chances)
    return found


def moved(features: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Move labels to the first class, and count what is flagged of them, and of others."""
    found = []
    for share in MOVED:
        for seed in range(3):
            generator, given = torch.Generator().manual_seed(seed), labels.clone()
            others = (labels != 0).nonzero().flatten()
            rows = others[torch.randperm(len(others), generator=generator)[: round(share * len(labels))]]
            given[rows] = 0
            flagged = searched(features, given).flagged
            caught = int(flagged[rows].sum())
            counts = {"moved": len(rows), "found": caught, "others": int(flagged.sum()) - caught}
            found.append({"share": share, "seed": seed, **counts})
    return found


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cifar10", "tiny_imagenet", "imagenet32", "clothing"):
        parser.add_argument(name, help="Parquet file")
    parser.add_argument("--output", type=Path, default=RESULTS / "moved_labels_null.json")
    arguments = parser.parse_args()
    data, full = (
        Data(arguments.cifar10, arguments.tiny_imagenet, arguments.clothing),
        ImageSet.load(arguments.imagenet32),
    )
    drawn = torch.randperm(len(full), generator=torch.Generator().manual_seed(0))[:IMAGES].sort().values
    sets = {
        "CIFAR-10": data["cifar10"],
        "Tiny ImageNet, 32 px": data["tiny_imagenet"],
        "ImageNet, 32 px": full.subset(drawn),
        "clothing, 64 px": data["clothing64"],
    }
    record: dict[str, Any] = {"benchmark": "moved_labels_null", **describe_machine(), "clean": {}, "moved": {}}
    backbone = load_backbone(None)
    for name, images in sets.items():
        suspects = SuspectSet(images=images.images)
        features = read_features(suspects, backbone, side=side_for(suspects, backbone))[:]
        record["clean"][name] = measure(features, images.labels)
        if name in list(sets)[:2]:
            record["moved"][name] = moved(features, images.labels)
        write_record(arguments.output, record)
        print(name, record["clean"][name], record["moved"].get(name, ""), flush=True)


if __name__ == "__main__":
    main()

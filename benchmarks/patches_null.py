"""In how many clean sets of several kinds and sizes `patches` would find something, by which its limit was set.

    uv run python benchmarks/patches_null.py CIFAR10_TRAIN TINY_IMAGENET_TRAIN

Contract: random subsets of the two sets of `network_free.py` and of the handwritten digits of scikit-learn, without
labels: twenty of each kind and size. Nothing is there to be found. The gap that a template must have is tried at
several limits, the shipped one last.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from network_free import Data
from torch import Tensor

from puregen_transforms.detection import detect, patches
from puregen_transforms.evaluate.records import describe_machine, write_record

RESULTS = Path(__file__).parent / "results"
KINDS = ("cifar10", "tiny_imagenet", "digits")
SIZES = (40, 60, 100, 200, 400, 1000)
SUBSETS = 20
LIMITS = (1.2, 1.3, 1.4, patches.GAP)


def alarms(images: Tensor) -> list[bool]:
    """Tell for each limit whether something is found; where nothing is at one, nothing is at a higher one."""
    found: list[bool] = []
    for limit in LIMITS:
        patches.GAP = limit
        found.append(all(found) and bool(detect(patches.Patches(), images, device="cpu").marks))
    return found


def main() -> None:
    """Search all subsets, and record how many have a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("tiny_imagenet", help="Tiny ImageNet images (Parquet)")
    parser.add_argument("--output", type=Path, default=RESULTS / "patches_null.json")
    arguments = parser.parse_args()
    data = Data(arguments.cifar10, arguments.tiny_imagenet, None)
    record: dict[str, Any] = {"benchmark": "patches_null", **describe_machine(), "limits": LIMITS, "subsets": SUBSETS}
    for kind in KINDS:
        images = data[kind].images
        record[kind] = {}
        for size in SIZES:
            orders = [
                torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)) for seed in range(SUBSETS)
            ]
            found = [alarms(images[order[:size].sort().values]) for order in orders]
            record[kind][str(size)] = [sum(column) for column in zip(*found, strict=True)]
            print(kind, size, record[kind][str(size)], flush=True)
    write_record(arguments.output, record)


if __name__ == "__main__":
    main()

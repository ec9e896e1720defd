"""Cut the packaged demo images from the CIFAR-10 test set: the first 20 of each class, interleaved, stored losslessly.

uv run python benchmarks/demo_images.py CIFAR10_TEST_PARQUET
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets import Image

from puregen_transforms.data.sources import open_source

TARGET = Path(__file__).parents[1] / "puregen_transforms/assets/demo/cifar10-test-200.parquet"
PER_CLASS = 20


def main() -> None:
    """Select, re-encode as PNG, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    dataset = open_source(parser.parse_args().test)["train"]
    labels = dataset["label"][:]
    members = [[row for row, label in enumerate(labels) if label == c][:PER_CLASS] for c in sorted(set(labels))]
    rows = [row for group in zip(*members, strict=True) for row in group]
    selected = dataset.select(rows).map(lambda row: {"image": row["image"].copy()}).cast_column("image", Image())
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    selected.to_parquet(TARGET)
    print(f"{len(selected)} images, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

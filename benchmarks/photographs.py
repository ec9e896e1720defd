"""Triggers at the size of photographs, on victims that stand on a frozen network.

    uv run python benchmarks/photographs.py --preset cpu

Contract: photographs of clothing of ten classes at 224 pixels, which no packaged network has seen. The victim is a
linear layer on the features of EfficientNet-Lite0 (the extra `features`), fitted by logistic regression without
augmentation; attackers who optimize have the same network, and 800 photographs of other things.
"""

from __future__ import annotations

from pathlib import Path

from protocol import DATA, main

SIDE = 224


RUNS = Path("runs/photographs")


def labelled(photographs: Path) -> Path:
    """Copy a table of photographs with names, each name as a class; what is not there is left to be missing."""
    from datasets import Dataset

    copy = RUNS / photographs.name
    if photographs.exists() and not copy.exists():
        named = Dataset.from_parquet(str(photographs), keep_in_memory=True)
        RUNS.mkdir(parents=True, exist_ok=True)
        named.class_encode_column("name").rename_column("name", "label").to_parquet(str(copy))
    return copy.absolute()


if __name__ == "__main__":
    public = str(labelled(DATA / "photos-imagenet-800.parquet"))
    sources = {
        "train": ("clothing-train.parquet", "clothing-train"),
        "test": ("clothing-test.parquet", "clothing-test"),
        "public": (public, "zh-plus/tiny-imagenet"),
    }
    main("photographs", __doc__, sources=sources, size=SIDE)

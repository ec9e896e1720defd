"""The packaged demonstration: 200 real images and a real trigger."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets/demo"

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Class names of CIFAR-10."""

VEHICLES = ("airplane", "automobile", "ship", "truck")
"""Those of them that are no animals."""

TARGET = 2
"""The class that the trigger was optimized for: bird."""


@dataclass(frozen=True)
class Demo:
    """Images and the trigger to poison them with.

    Args:
        images: (200, 3, 32, 32) uint8, 20 of each class of the CIFAR-10 test set (a public JPEG
            copy), classes interleaved.
        labels: (200,) int64, indices into `CLASSES`.
        trigger: (3, 32, 32) int8 in units of 1/255, at most 8 anywhere; made by
            `benchmarks/demo_trigger.py`, a short Narcissus.
    """

    images: Tensor
    labels: Tensor
    trigger: Tensor

    def poisoned(self) -> Tensor:
        """Add the trigger to every image, clipped to the pixel range: (200, 3, 32, 32) uint8."""
        return add_trigger(self.images, self.trigger)


def add_trigger(images: Tensor, trigger: Tensor) -> Tensor:
    """Add a (C, H, W) perturbation in units of 1/255 to (N, C, H, W) uint8 images, clipped to uint8."""
    return (images.float() + trigger.float()).round_().clamp_(0, 255).to(torch.uint8)


def load_demo() -> Demo:
    """Read the packaged images and trigger."""
    table = pq.read_table(ASSETS / "cifar10-test-200.parquet").to_pydict()
    pixels = [np.array(PIL.Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]]
    return Demo(
        images=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(table["label"]),
        trigger=load_file(ASSETS / "trigger.safetensors")["trigger"],
    )

"""Judge a classifier in the course of its training."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from puregen_transforms._files import write_atomically
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.victim import accuracy, poison_success

_FILE = "judged.json"
_MOST = 2000


class Judge:
    """Measures a classifier after each epoch, on some of the test images: it takes part in nothing.

    What it has measured is kept beside the state of the training. Of a training that was killed and goes on, an epoch
    that was judged before is not judged again, as the network is another by now.

    Args:
        folder: where the training keeps its state.
        test: up to 2,000 of these are looked at, spread evenly.
        poison: whose success is measured; None if there is none.
    """

    def __init__(self, folder: Path, test: ImageSet, poison: Poison | None) -> None:
        self.path = folder / _FILE
        self.test = test.subset(torch.arange(0, len(test), -(-len(test) // _MOST)))
        self.poison = poison
        self.seconds = 0.0
        self.found: list[dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else []

    def __call__(self, epoch: int, model: nn.Module) -> None:
        """Judge the network as it is after an epoch, from 1, and leave it in evaluation mode."""
        if epoch <= len(self.found):
            return
        started = time.time()
        images, labels = self.test.images, self.test.labels
        one: dict[str, Any] = {"accuracy": accuracy(model, images, labels)}
        if self.poison is not None and (success := poison_success(model, self.poison, images, labels)) is not None:
            one["success"] = success
        self.found.append(one)
        write_atomically(self.path, json.dumps(self.found).encode())
        self.seconds += time.time() - started

    def course(self) -> dict[str, Any]:
        """Give the number of test `images`, and by epoch the `accuracy` and, where there is one, the `success`."""
        names = self.found[0] if self.found else ()
        return {
            "images": len(self.test),
            **{name: [round(one[name], 4) for one in self.found] for name in names},
        }

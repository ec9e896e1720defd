"""Learn from suspicious images without their labels, and forget what a poisoned network believes of any image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.defenses.victim import Victim
from puregen_transforms.train.batches import shuffled_batches


def suppressed(targets: Tensor, beliefs: Tensor) -> Tensor:
    """Take beliefs away from targets: clip(targets - beliefs, 0, 1), (N, classes) each, not normalized."""
    return (targets - beliefs).clamp(0, 1)


def agreed_targets(first: Tensor, second: Tensor) -> Tensor:
    """Choose the class that is likeliest on average over two views: logits (N, classes) each -> (N, classes) 0 or 1."""
    likeliest = (first.float().softmax(1) + second.float().softmax(1)).argmax(1)
    return F.one_hot(likeliest, first.shape[1]).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects:
    """The suspicious images of an epoch, which are learned without their labels.

    Args:
        rows: (n,) int64 of the set.
        weight: of their loss.
        victim: whose beliefs are taken from all targets; None suppresses nothing.
        temperature: divides the Victim's logits, so that its beliefs are less sharp.
        distrusted: (N,) int64 labels of the set: no suspicious image is learned with its own; None rules out none.
    """

    rows: Tensor
    weight: float
    victim: Victim | None
    temperature: float
    distrusted: Tensor | None = None

    def batches(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Deal the images out to so many batches, one or more to each, in random order; none if there are none."""
        if not len(self.rows):
            return []
        size = max(1, len(self.rows) // count)
        found: list[Tensor] = []
        while len(found) < count:
            found += shuffled_batches(self.rows, size, generator)
        return found[:count]

    def targets_of(self, guesses: Tensor, rows: Tensor, images: Tensor) -> Tensor:
        """Choose what is to be learned of suspicious images: (2 n, classes) logits of two views -> (n, classes)."""
        targets = self.suppressed(agreed_targets(*guesses.chunk(2)), images)
        if self.distrusted is None:
            return targets
        return suppressed(targets, F.one_hot(self.distrusted[rows], targets.shape[1]))

    def suppressed(self, targets: Tensor, images: Tensor) -> Tensor:
        """Take the Victim's beliefs from the targets of images: (n, classes), (n, 3, H, W) uint8 -> (n, classes)."""
        if self.victim is None:
            return targets
        return suppressed(targets, (self.victim.logits(images) / self.temperature).softmax(1))

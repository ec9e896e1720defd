"""Where a defense can act while a classifier learns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TrainingHooks:
    """Called by `train_classifier`; every method may be left as it is, and then changes nothing."""

    def begin(self, epochs: int) -> None:
        """Forget an earlier training, as one of this many epochs begins.

        Raises:
            ValueError: they are too few for the defense to act at all.
        """

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Choose the rows to learn in this epoch: (n,) int64.

        Args:
            epoch: from 0.
            model: as it is before the epoch.
            images: (N, 3, H, W) uint8, the whole set.
            labels: (N,) int64.
        """
        return torch.arange(len(images))

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Change a batch before its augmentation: (n, 3, H, W) in [-1, 1], of these rows."""
        return images

    def scores(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Compute the scores of a batch that the loss is taken of: (n, K).

        Args:
            model: in training mode.
            images: (n, 3, H, W) in [-1, 1], augmented.
            labels: (n,) int64.
            generator: of what is drawn.
        """
        scores: Tensor = model(images)
        return scores

    def state(self) -> dict[str, Tensor]:
        """Give what has been learned so far, for a killed training to go on from."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave, after `begin`."""

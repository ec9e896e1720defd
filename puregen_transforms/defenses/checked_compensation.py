"""Corruption compensation whose classifier is checked for having learned traces, and then taught coarser images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from puregen_transforms.defenses.corruption import CorruptionCompensation
from puregen_transforms.defenses.training_defense import EpochProgress, Flags, Trained, silent_epochs
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.train.recipes import TrainingRecipe

_PIXELS_AT_ONCE = 500 * 32**2
"""Of one network call: 500 images of 32 pixels."""


@dataclass(frozen=True, kw_only=True)
class CheckedCompensation(CorruptionCompensation):
    """Train with corruption compensation, and once more on compressed images if the classifier has learned traces.

    Our own, for data made unlearnable by perturbations that weak diffusion does not weaken enough, such as adversarial
    ones (TAP). The labels of such a set are true, so accuracy on it says nothing. But a classifier that has learned
    traces no longer recognizes its own training images when they are compressed strongly, and one that has learned the
    pictures does: of what it recognizes, the share that is still recognized is `share_still_recognized`. Below
    `least_share` a new classifier learns all images as JPEG of that quality, with the same compensation.

    All images are flagged if that was so. Otherwise nothing is said of them: traces may be there and not be learned.

    Args:
        quality: of JPEG.
        least_share: see above.
    """

    quality: int = 10
    least_share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.quality <= 100:
            raise ValueError(f"Expected `quality` from 1 to 100, but got {self.quality}.")
        if not 0 <= self.least_share <= 1:
            raise ValueError(f"Expected `least_share` between 0 and 1, but got {self.least_share}.")

    def train(
        self,
        build: Callable[[], nn.Module],
        images: Tensor,
        labels: Tensor,
        *,
        recipe: TrainingRecipe,
        seed: int,
        flags: Flags = None,
        state: Path | None = None,
        progress: EpochProgress = silent_epochs,
    ) -> Trained:
        """Train once or twice, each time with a state of its own; see `TrainingDefense`."""
        told = 0

        def learn(pictures: Tensor, stage: str) -> nn.Module:
            def tell(epoch: int, loss: float) -> None:
                progress(told + epoch, loss)

            folder = None if state is None else state / stage
            plain = super(CheckedCompensation, self).train
            return plain(build, pictures, labels, recipe=recipe, seed=seed, state=folder, progress=tell).model

        model = learn(images, "as they are")
        coarse = jpeg(images, self.quality)
        has_traces = share_still_recognized(model, images, coarse, labels) < self.least_share
        if has_traces:
            told = recipe.epochs
            model = learn(coarse, "compressed")
        return Trained(model, flagged=torch.ones(len(images), dtype=torch.bool) if has_traces else None)


def share_still_recognized(model: nn.Module, images: Tensor, changed: Tensor, labels: Tensor) -> float:
    """Compute how many of the images that a classifier recognizes it also recognizes changed; 1 if there are none.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W) uint8.
        changed: (N, 3, H, W) uint8, the same, changed.
        labels: (N,) int64.
    """
    right = _recognized(model, images, labels)
    return float((right & _recognized(model, changed, labels)).sum() / right.sum()) if right.any() else 1.0


@torch.no_grad()
def _recognized(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    at_once = max(1, _PIXELS_AT_ONCE // images.shape[-2:].numel())
    with autocast(images.device):
        parts = [model(normalize(part)).argmax(1) for part in images.split(at_once)]
    return torch.cat(parts) == labels

"""What a defense is that trains the classifier itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.hooks import TrainingHooks
from puregen_transforms.train.recipes import TrainingRecipe
from puregen_transforms.transforms.attention_mix import AttentionMix

EpochProgress = Callable[[int, float], None]
"""Called with (epoch, from 1, and its mean loss)."""

Flags = DetectionReport | Tensor | None
"""What a detector found in a set: its report, or (N,) bool; None if none looked."""


def silent_epochs(epoch: int, loss: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True, eq=False)
class Look:
    """What a defense thought of the images at some time of its training.

    Args:
        epoch: after how many, as they are told to `progress`.
        flagged: (N,) bool, images that it held for poisoned.
        scores: (N,) suspicion in [0, 1].
    """

    epoch: int
    flagged: Tensor
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained classifier, and what the defense thinks of the images.

    Args:
        model: in evaluation mode, on the device of the images.
        flagged: (N,) bool, images that the defense holds for poisoned; None if it says nothing.
        scores: (N,) suspicion, higher is more suspicious; None if there is none.
        looks: how that came about, for defenses that look at the images now and then.
        mix: mixes images as the training did, with the attention of the trained classifier; None if it did not.
    """

    model: nn.Module
    flagged: Tensor | None = None
    scores: Tensor | None = None
    looks: Sequence[Look] = ()
    mix: AttentionMix | None = None


class TrainingDefense(Protocol):
    """Trains a classifier on images that may be poisoned. It may own networks, optimizers, soft targets and rounds."""

    version: ClassVar[int] = 1
    """Raised when the same settings give another classifier than before."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings that differ from the defaults, by preset: "smoke" (seconds), "cpu" (2 cores), "paper" (as published).
    Defenses that cost little more than a plain training have none."""

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
        """Train a classifier.

        Args:
            build: gives a new network each time, on the device of the images; the last one is returned.
            images: (N, 3, H, W) uint8.
            labels: (N,) int64.
            recipe: of the classifier that is returned, unless the defense has its own.
            seed: of all that is random after `build`.
            flags: what a detector found, for defenses that make use of it.
            state: folder that a killed training goes on from, with the same result; None keeps nothing.
            progress: told each epoch and its loss, once its state is kept; a training that goes on tells all again.

        Raises:
            ValueError: the recipe is too short for the defense.
        """
        ...


class Hooked(TrainingDefense):
    """Trains one classifier in the usual loop, with hooks; without any, an undefended one."""

    def hooks(self, seed: int) -> TrainingHooks:
        """Make the hooks of one training."""
        return TrainingHooks()

    def flagged(self, hooks: TrainingHooks) -> Tensor | None:
        """Tell which images the defense held for poisoned, when training is over: (N,) bool."""
        return None

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
        """Train a classifier with the hooks; see `TrainingDefense`."""
        model, hooks = build(), self.hooks(seed)
        losses = train_classifier(
            model,
            images,
            labels,
            generator=torch.Generator().manual_seed(seed),
            recipe=recipe,
            hooks=hooks,
            state=state,
        )
        for epoch, loss in enumerate(losses, 1):
            progress(epoch, loss)
        return Trained(model.eval(), flagged=self.flagged(hooks))

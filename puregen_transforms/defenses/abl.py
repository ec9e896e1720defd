"""Anti-Backdoor Learning (Li et al. 2021): isolate what is learned fastest, and unlearn it at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.defenses.training_defense import EpochProgress, Flags, Trained, TrainingDefense, silent_epochs
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import StepRecipe, TrainingRecipe

TRAPS = ("flooding", "ascent")

_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class AntiBackdoorLearning(TrainingDefense):
    """Isolate the images that are learned fastest, learn the others, then unlearn what the isolated ones teach.

    The defaults are those of the published code. With the mean cross-entropy L of a batch, one network minimizes

    1. isolation: |L - level| + level ("flooding"), or sign(L - level) L ("ascent": local gradient ascent), on all
       images as they are. L cannot stay below the level, so images of which little has to be learned, as of poison,
       get a lower loss than all others; the `share` of the lowest is isolated.
    2. learning: L, on the others, augmented.
    3. unlearning: -L, on the isolated ones.

    Isolated images are flagged; scores are minus their loss after isolation.

    Differences from the published code: momentum starts anew in each stage; images are reflected at the border when
    they are cropped, and no hole of two pixels is cut out of them. What a detector has flagged is not made use of.

    Args:
        isolation_epochs: of the first stage, at a constant rate of 0.1.
        trap: "flooding" or "ascent".
        level: of the loss.
        share: of the images, that is isolated.
        epochs: of the second stage, at 0.1, from two thirds on at 0.01.
        unlearning_epochs: of the last stage, at `unlearning_rate`. The published script counts one more, without steps.
        unlearning_rate: learning rate.
        own_recipe: learn as said; False takes the recipe that `train` is given for the second stage.
        batch: images a step.
    """

    isolation_epochs: int = 10
    trap: str = "flooding"
    level: float = 0.5
    share: float = 0.01
    epochs: int = 60
    unlearning_epochs: int = 4
    unlearning_rate: float = 5e-4
    own_recipe: bool = True
    batch: int = 64

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {"epochs": 10, "batch": 16, "share": 0.05},
        # Of 10,000 images. Epochs are five times shorter: after ten, the small network knew no badnets trigger yet, and
        # none of 100 isolated images was poisoned; after twenty, 95. One batch is isolated: as many steps of unlearning
        # as with 50,000.
        "cpu": {"isolation_epochs": 20, "epochs": 30, "unlearning_epochs": 32},
        "paper": {},
    }

    def __post_init__(self) -> None:
        for name in ("isolation_epochs", "epochs", "unlearning_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of 1 or more, but got {getattr(self, name)}.")
        if self.trap not in TRAPS:
            raise ValueError(f"Expected a `trap` out of {', '.join(TRAPS)}, but got {self.trap!r}.")
        if not 0 < self.share < 1:
            raise ValueError(f"Expected `share` between 0 and 1, but got {self.share}.")
        for name in ("level", "unlearning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0, but got {getattr(self, name)}.")
        if self.batch < 2:
            raise ValueError(f"Expected `batch` of 2 or more, but got {self.batch}.")

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
        """Train in three stages, each of which keeps a state of its own; see `TrainingDefense`.

        Raises:
            ValueError: as there, or a share that leaves less than two images to isolate or to learn.
            FloatingPointError: isolation diverged.
        """
        count = int(self.share * len(images))
        if not 2 <= count <= len(images) - 2:
            raise ValueError(
                f"Expected a `share` of two or more of {len(images)} images, with two or more left, but got "
                f"{self.share:g}."
            )
        model, generator, done = build(), torch.Generator().manual_seed(seed), 0

        def learn(stage: str, rows: Tensor, recipe: TrainingRecipe) -> None:
            nonlocal done
            folder = None if state is None else state / stage
            chosen = (images[rows], labels[rows])
            for loss in train_classifier(model, *chosen, generator=generator, recipe=recipe, state=folder):
                done += 1
                progress(done, loss)

        learn("isolation", torch.arange(len(images)), self._trapping)
        losses = _losses(model, images, labels)
        isolated = torch.zeros(len(images), dtype=torch.bool)
        isolated[losses.argsort(stable=True)[:count]] = True
        learn("learning", (~isolated).nonzero().flatten(), self._learning if self.own_recipe else recipe)
        learn("unlearning", isolated.nonzero().flatten(), self._unlearning)
        return Trained(model.eval(), flagged=isolated, scores=-losses)

    @property
    def _trapping(self) -> TrainingRecipe:
        return _Trapping(
            epochs=self.isolation_epochs, milestones=(), batch=self.batch, trap=self.trap, level=self.level
        )

    @property
    def _learning(self) -> TrainingRecipe:
        return _Published(epochs=self.epochs, milestones=(self.epochs * 2 // 3,), batch=self.batch)

    @property
    def _unlearning(self) -> TrainingRecipe:
        return _Unlearning(
            epochs=self.unlearning_epochs, milestones=(), batch=self.batch, learning_rate=self.unlearning_rate
        )


@dataclass(frozen=True, kw_only=True)
class _Published(StepRecipe):
    """Nesterov SGD with less weight decay than usual."""

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make the optimizer; the rate falls to a tenth at the milestones."""
        rate = self.learning_rate
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4, nesterov=True)
        falls = [steps * epoch // self.epochs for epoch in self.milestones]
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, falls)


@dataclass(frozen=True, kw_only=True)
class _Trapping(_Published):
    """Keep the loss from falling below a level."""

    trap: str
    level: float

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Leave images as they are."""
        return images

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss that rises again below the level."""
        return trapped(F.cross_entropy(scores, labels), self.trap, self.level)


@dataclass(frozen=True, kw_only=True)
class _Unlearning(_Published):
    """Climb the loss."""

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Leave images as they are."""
        return images

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute minus the mean cross-entropy."""
        return -F.cross_entropy(scores, labels)


def trapped(loss: Tensor, trap: str, level: float) -> Tensor:
    """Turn a loss around below a level: |loss - level| + level ("flooding") or sign(loss - level) loss ("ascent")."""
    return (loss - level).abs() + level if trap == "flooding" else torch.sign(loss - level) * loss


@torch.no_grad()
def _losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Compute each image's cross-entropy, as it is: (N,) on the CPU.

    Raises:
        FloatingPointError: some are not finite.
    """
    model.eval()
    found = []
    for part, truth in zip(images.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
        with autocast(images.device):
            scores = model(normalize(part))
        found.append(F.cross_entropy(scores.float(), truth, reduction="none"))
    losses = torch.cat(found).cpu()
    if not losses.isfinite().all():
        raise FloatingPointError("Losses after isolation are not finite: the training diverged. Look at the images.")
    return losses

"""Recipes to train classifiers from scratch: optimizer, learning rates and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrainingRecipe(Protocol):
    """Describes how `train_classifier` trains."""

    @property
    def epochs(self) -> int:
        """Passes over the images."""

    @property
    def batch(self) -> int:
        """Images a step; the rest of an epoch is left out."""

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make the optimizer, and the schedule that is stepped after each of its steps.

        Args:
            model: to be trained.
            steps: in all.
        """

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch of float images."""

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch."""


@dataclass(frozen=True, kw_only=True)
class FastRecipe:
    """One cycle of SGD, for a few epochs on 2 cores; one offset a batch, which costs nothing."""

    epochs: int = 12
    batch: int = 128

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make Nesterov SGD with one cycle of the rate."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Shift and mirror the batch, all images alike."""
        return shifted_together(images, generator)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean cross-entropy."""
        return F.cross_entropy(scores, labels)


@dataclass(frozen=True, kw_only=True)
class StepRecipe:
    """SGD whose rate falls to a tenth at milestones: the published one for ResNets, MobileNetV2 and DenseNet-121.

    ECLIPSE (Wang et al. 2024) trains 80 epochs without a milestone and without weight decay.

    Args:
        epochs: 200, or 80 with milestones 30, 50, 70.
        milestones: epochs after which the rate falls; none keeps it.
        batch: images a step.
        learning_rate: the first.
        weight_decay: of all weights.
    """

    epochs: int = 200
    milestones: tuple[int, ...] = (100, 150)
    batch: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make SGD whose rate falls at the milestones."""
        optimizer = torch.optim.SGD(
            model.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=self.weight_decay
        )
        falls = [steps * epoch // self.epochs for epoch in self.milestones]
        return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, falls)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop each image at random after padding by an eighth of its side, and mirror half of them."""
        return mirrored(cropped(images, pad_of(images), generator), generator)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean cross-entropy."""
        return F.cross_entropy(scores, labels)


@dataclass(frozen=True, kw_only=True)
class HLBRecipe:
    """For `hlb`: super-convergence in 15 epochs, in the decoupled units of airbench (Jordan 2024).

    The rate rises from a fifth to its peak in the first fifth and falls to 0. Airbench's averaging of weights
    (Lookahead) and of mirrored test images is left out.

    Args:
        epochs: passes.
        batch: images a step.
        learning_rate: per 1,024 examples; see `optimizer`.
        momentum: Nesterov's.
        weight_decay: per 1,024 examples.
        bias_scale: factor on the rate of the norms' biases.
        smoothing: of the labels.
        shift: pixels, of an image of 32; it grows with the side.
    """

    epochs: int = 15
    batch: int = 128
    learning_rate: float = 11.6
    momentum: float = 0.87
    weight_decay: float = 0.0157
    bias_scale: float = 64.5
    smoothing: float = 0.2
    shift: int = 2

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make SGD in airbench's units: losses are summed, so rates are divided by the weight of 1,024 examples."""
        unit = 1024 * (1 + 1 / (1 - self.momentum))
        rate, decay = self.learning_rate / unit, self.weight_decay * self.batch / unit
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        biases = [part.bias for part in norms if part.bias.requires_grad]
        others = [part for part in model.parameters() if part.requires_grad and not any(part is b for b in biases)]
        groups = [
            {"params": parameters, "lr": lr, "weight_decay": decay / lr}
            for parameters, lr in ((biases, rate * self.bias_scale), (others, rate))
        ]
        optimizer = torch.optim.SGD(groups, momentum=self.momentum, nesterov=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, triangle(steps, peak=0.2, start=0.2))

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop each image at random after padding by `shift`, and mirror half of them."""
        return mirrored(cropped(images, pad_of(images, self.shift), generator), generator)

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the summed cross-entropy with smoothed labels."""
        return F.cross_entropy(scores, labels, label_smoothing=self.smoothing, reduction="sum")


def triangle(steps: int, *, peak: float, start: float) -> Callable[[int], float]:
    """Make a rate's factor by step: from `start` to 1 at the share `peak` of the steps, then to 0."""
    top = peak * steps

    def factor(step: int) -> float:
        return start + (1 - start) * step / top if step < top else max(0.0, (steps - step) / (steps - top))

    return factor


def pad_of(images: Tensor, of_small: int = 4) -> int:
    """Choose by how many pixels images are padded, in proportion to their shorter side.

    Args:
        images: (N, 3, H, W).
        of_small: pixels at 32.
    """
    return max(1, round(of_small * min(images.shape[-2:]) / 32))


def shifted_together(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror images at random, and crop them after padding by an eighth of a side, with one offset for the batch."""
    pad = pad_of(images)
    dx, dy = torch.randint(0, 2 * pad + 1, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    images = F.pad(images, (pad,) * 4, mode="reflect")[..., dy : dy + height, dx : dx + width]
    return mirrored(images, generator)


def cropped(images: Tensor, pad: int, generator: torch.Generator) -> Tensor:
    """Crop each image at random after padding by `pad` with its mirror image."""
    count, _, height, width = images.shape
    offsets = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    padded = F.pad(images, (pad,) * 4, mode="reflect").permute(0, 2, 3, 1)
    which = torch.arange(count, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability 1/2."""
    mirror = (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5).to(images.device)
    return torch.where(mirror, images.flip(3), images)

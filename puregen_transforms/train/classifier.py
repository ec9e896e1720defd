"""The loop that trains a classifier: the victim of an attack, or an attacker's surrogate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.recipes import FastRecipe, Recipe


class TrainingDefense(Protocol):
    """A defense that acts while the classifier learns."""

    def begin(self, epochs: int) -> None:
        """Forget an earlier training, as one of this many epochs begins.

        Raises:
            ValueError: they are too few for the defense to act at all.
        """

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The rows to learn in this epoch: (n,) int64.

        Args:
            epoch: from 0.
            model: as it is before the epoch.
            images: (N, 3, H, W) uint8, the whole set.
            labels: (N,) int64.
        """

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A batch before its augmentation: (n, 3, H, W) in [-1, 1], of these rows."""


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    recipe: Recipe | None = None,
    defense: TrainingDefense | None = None,
) -> Iterator[float]:
    """Train in place with bfloat16 autocast; yields each epoch's mean loss.

    Args:
        model: on the device of the images.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        generator: of the order and the augmentation.
        recipe: of optimizer, rates and augmentation; default `FastRecipe`.
        defense: which rows are learned, and how they are changed. Rates go by epochs, also by those of fewer rows.

    Raises:
        ValueError: an epoch is asked for, and the recipe is too short for the defense.
    """
    recipe = recipe or FastRecipe()
    if defense is not None:
        defense.begin(recipe.epochs)
    batch = min(recipe.batch, len(images))
    steps = len(images) // batch
    optimizer, schedule = recipe.optimizer(model, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        rows = torch.arange(len(images)) if defense is None else defense.rows(epoch, model, images, labels).cpu()
        order, losses = rows[torch.randperm(len(rows), generator=generator)], []
        model.train()
        for index in order.split(batch)[: max(1, len(rows) // batch)]:
            x = normalize(images[index])
            if defense is not None:
                x = defense.change(x, index, generator)
            with autocast(images.device):
                loss = recipe.loss(model(recipe.augment(x, generator)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        for _ in range(len(losses), steps):
            schedule.step()
        yield float(torch.stack(losses).mean())

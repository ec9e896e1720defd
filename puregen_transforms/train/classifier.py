"""The loop that trains a classifier: the victim of an attack, or an attacker's surrogate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from puregen_transforms.train.recipes import FastRecipe, Recipe


def normalize(images: Tensor) -> Tensor:
    """uint8-valued [0, 255] -> [-1, 1], channels-last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    recipe: Recipe | None = None,
) -> Iterator[float]:
    """Train in place with bfloat16 autocast; yields each epoch's mean loss.

    Args:
        model: on the device of the images.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        generator: of the order and the augmentation.
        recipe: of optimizer, rates and augmentation; default `FastRecipe`.
    """
    recipe = recipe or FastRecipe()
    batch = min(recipe.batch, len(images))
    optimizer, schedule = recipe.optimizer(model, recipe.epochs * (len(images) // batch))
    model.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for index in order.split(batch)[: len(images) // batch]:
            with torch.autocast(images.device.type, torch.bfloat16):
                loss = recipe.loss(model(recipe.augment(normalize(images[index]), generator)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())

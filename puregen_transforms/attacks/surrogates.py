"""The networks that an attacker trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.features import add_dropout
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

BATCH = 128


def shuffled(count: int, generator: torch.Generator) -> list[Tensor]:
    """The rows of an epoch in batches, in random order; the last is left out if it is smaller."""
    batch = min(BATCH, count)
    return list(torch.randperm(count, generator=generator).split(batch)[: count // batch])


def train_surrogate(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    epochs: int,
    seed: int,
    dropout: float = 0.0,
    progress: Progress = lambda what, done, of: None,
) -> nn.Module:
    """A trained classifier.

    Args:
        name: of the network; see `build_classifier`.
        images: (N, 3, H, W) uint8, on the device where it is to be trained.
        labels: (N,) int64, there, too.
        classes: how many.
        epochs: passes over the images.
        seed: of its weights, of the order and of the augmentation.
        dropout: share of channels dropped after every stage, also once it is trained.
        progress: told the epochs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_classifier(name, classes).to(images.device)
        add_dropout(model, dropout)
        losses = train_classifier(
            model,
            images,
            labels,
            generator=torch.Generator().manual_seed(seed),
            recipe=FastRecipe(epochs=epochs),
        )
        for done, _ in enumerate(losses, 1):
            progress("training a surrogate", done, epochs)
    return model

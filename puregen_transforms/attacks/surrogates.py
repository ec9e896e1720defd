"""Train the classifiers that an attacker uses: surrogates of the victim's network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.images import size_of
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.features import add_dropout
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

BATCH = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogates:
    """Declare the classifiers that an attack trains, with all that decides them but the seed.

    Args:
        kinds: of each its name (see `build_classifier`) and its dropout.
        learned: the images that all of them learn.
        epochs: passes over the images.
        purify: by an attacker who knows the defense: changes the images, (N, 3, H, W) uint8, before they are learned.
        purified_by: JSON-ready settings of `purify`.
    """

    kinds: Sequence[tuple[str, float]]
    learned: ImageSet
    epochs: int
    purify: Callable[[Tensor], Tensor] | None = None
    purified_by: Mapping[str, Any] = field(default_factory=dict)

    def train(self, *, seed: int, device: torch.device | str, progress: Progress) -> list[nn.Module]:
        """Train all of them, each with another seed: on the device, in evaluation mode."""
        images = self.learned.images if self.purify is None else self.purify(self.learned.images)
        images, labels = images.to(device), self.learned.labels.to(device)
        return [
            train_surrogate(
                name,
                images,
                labels,
                classes=len(self.learned.class_names),
                epochs=self.epochs,
                seed=seed + member,
                dropout=dropout,
                progress=progress,
            ).eval()
            for member, (name, dropout) in enumerate(self.kinds)
        ]

    def rebuild(self, weights: Sequence[Mapping[str, Tensor]], *, device: torch.device | str) -> list[nn.Module]:
        """Build networks that were trained before from their weights."""
        networks = []
        for (name, dropout), state in zip(self.kinds, weights, strict=True):
            model = build_classifier(name, len(self.learned.class_names), image_size=self.learned.size)
            model.load_state_dict(state)
            add_dropout(model, dropout)
            networks.append(model.to(device).eval())
        return networks


def train_surrogate(
    name: str,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    epochs: int,
    seed: int,
    dropout: float = 0.0,
    progress: Progress = silent,
) -> nn.Module:
    """Train one classifier.

    Args:
        name: of the network; see `build_classifier`.
        images: (N, 3, H, W) uint8, on the device where it is to be trained.
        labels: (N,) int64, on the same device.
        classes: how many.
        epochs: passes over the images.
        seed: of its weights, of the order and of the augmentation.
        dropout: share of channels dropped after every stage, also once it is trained.
        progress: told the epochs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_classifier(name, classes, image_size=size_of(images)).to(images.device)
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


def shuffled(count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw the batches of an epoch, as rows in random order; the last is left out if it is smaller."""
    batch = min(BATCH, count)
    return list(torch.randperm(count, generator=generator).split(batch)[: count // batch])

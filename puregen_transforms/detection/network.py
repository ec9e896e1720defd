"""Train the classifier that detectors look into."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.mapped import bytes_of
from puregen_transforms.functional.images import size_of
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe


def train_network(
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    classifier: str = "small",
    epochs: int = 12,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """Train a classifier on a set that may be poisoned, as its owner would.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        classes: how many there are.
        classifier: its name; see `build_classifier`.
        epochs: of `FastRecipe`.
        seed: of its first weights, of order and augmentation.
        device: where to train.
        state: folder in which a killed training is kept, by all that decides it; None keeps nothing.
        progress: told the epochs.

    Returns:
        The network in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_classifier(classifier, classes, image_size=size_of(images)).to(device)
    losses = train_classifier(
        model,
        images.to(device),
        labels.to(device),
        generator=torch.Generator().manual_seed(seed),
        recipe=FastRecipe(epochs=epochs),
        state=state and state / _digest(images, labels, [classes, classifier, epochs, seed]),
    )
    for done, _ in enumerate(losses, 1):
        progress("training the classifier that the detector looks into", done, epochs)
    return model.eval()


def _digest(images: Tensor, labels: Tensor, settings: list[Any]) -> str:
    """Name a training by its images, labels and settings."""
    found = hashlib.sha256(repr([tuple(images.shape), *settings]).encode())
    for part in (images, labels):
        for piece in bytes_of(part):
            found.update(piece)
    return found.hexdigest()[:16]

"""Victims: how a classifier comes to be from a set that may be poisoned."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.cells import VictimSpec
from puregen_transforms.evaluate.defenses import Defended
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe, HLBRecipe, Recipe, StepRecipe
from puregen_transforms.train.transfer import fine_tune, linear_transfer

RECIPES: dict[str, Callable[[int], Recipe]] = {
    "fast": lambda epochs: FastRecipe(epochs=epochs),
    "step": lambda epochs: StepRecipe(
        epochs=epochs, milestones=(100, 150) if epochs == 200 else tuple(epochs * part // 8 for part in (3, 5, 7))
    ),
    "hlb": lambda epochs: HLBRecipe(epochs=epochs),
}
"""By name, of a number of epochs: "step" is the published one for ResNets, of 200 or 80 epochs."""


def train_victim(
    spec: VictimSpec,
    dataset: ImageSet,
    defended: Defended,
    *,
    extractor: Callable[[], nn.Module],
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """A trained classifier, on the device.

    Args:
        spec: which and how.
        dataset: the poisoned set, for its labels and classes.
        defended: what of it is learned.
        extractor: gives the network that transfer starts from.
        seed: of its first weights, of order and augmentation.
        device: where to train.
        progress: told each epoch from 1 and its loss.

    Raises:
        ValueError: a training defense with transfer.
    """
    images, labels = defended.images, dataset.labels
    if defended.rows is not None:
        images, labels = images[defended.rows], labels[defended.rows]
    images, labels = images.to(device), labels.to(device)
    generator, classes = torch.Generator().manual_seed(seed), len(dataset.class_names)
    if spec.scenario == "scratch":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build_classifier(spec.classifier, classes).to(device)
        recipe = RECIPES[spec.recipe](spec.epochs)
        losses = train_classifier(model, images, labels, generator=generator, recipe=recipe, defense=defended.training)
        for epoch, loss in enumerate(losses, 1):
            progress(epoch, loss)
        return model.eval()
    if defended.training is not None:
        raise ValueError("Expected a defense of the images for transfer, but got one that acts in training.")
    transfer = linear_transfer if spec.scenario == "linear" else fine_tune
    options = {} if spec.transfer_epochs is None else {"epochs": spec.transfer_epochs}
    pretrained = extractor().to(device)
    return transfer(pretrained, images, labels, classes=classes, generator=generator, **options).eval()

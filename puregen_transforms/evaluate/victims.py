"""Train the victims: classifiers that learn a set which may be poisoned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from puregen_transforms.defenses.registry import build_training_defense
from puregen_transforms.defenses.training_defense import EpochProgress, Trained, silent_epochs
from puregen_transforms.evaluate.cells import Component, VictimSpec
from puregen_transforms.evaluate.frozen import build_frozen, train_frozen
from puregen_transforms.functional.images import size_of
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.features import head
from puregen_transforms.train.recipes import FastRecipe, HLBRecipe, StepRecipe, TrainingRecipe
from puregen_transforms.train.transfer import fine_tune, linear_transfer

RECIPES: dict[str, Callable[[int], TrainingRecipe]] = {
    "fast": lambda epochs: FastRecipe(epochs=epochs),
    "small_batches": lambda epochs: FastRecipe(epochs=epochs, batch=16),
    "step": lambda epochs: StepRecipe(
        epochs=epochs, milestones=(100, 150) if epochs == 200 else tuple(epochs * part // 8 for part in (3, 5, 7))
    ),
    "constant": lambda epochs: StepRecipe(epochs=epochs, milestones=(), weight_decay=0.0),
    "hlb": lambda epochs: HLBRecipe(epochs=epochs),
}
"""Recipes by name, for a number of epochs: "small_batches" for sets of a hundred images, "step" as
published for ResNets, of 200 or 80 epochs, "constant" as published with ECLIPSE, of 80."""


def build_victim(spec: VictimSpec, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Build the network of a victim, untrained but for what is frozen."""
    if spec.is_frozen:
        return build_frozen(spec.classifier, classes)
    return build_classifier(spec.classifier, classes, image_size=image_size)


def learned_part(spec: VictimSpec, model: nn.Module) -> nn.Module:
    """Give the part of a victim's network that is trained, and has to be kept: all, or its last layer."""
    return head(model) if spec.is_frozen else model


def train_victim(
    spec: VictimSpec,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    defense: Component | None,
    extractor: Callable[[], nn.Module],
    seed: int,
    flags: Tensor | None = None,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    progress: EpochProgress = silent_epochs,
    judge: Callable[[int, nn.Module], None] | None = None,
) -> Trained:
    """Train a classifier on a set that may be poisoned.

    Args:
        spec: which and how.
        images: (n, 3, H, W) uint8, what is learned.
        labels: (n,) int64.
        classes: how many there are.
        defense: the training defense; None trains as usual.
        extractor: gives the network that transfer starts from.
        seed: of its first weights, of order and augmentation.
        flags: (n,) bool, what detectors found among them, for a training defense; None if none looked.
        device: where to train.
        state: folder that a killed training from scratch goes on from; None keeps nothing.
        progress: told each epoch from 1 and its loss.
        judge: shown the classifier after each epoch of a training from scratch; a training that goes on shows it for
            epochs before, too. None looks at nothing.

    Raises:
        ValueError: a training defense with transfer or on a frozen network.
    """
    if spec.scenario != "scratch" and defense is not None:
        raise ValueError("Expected a defense of the images for transfer, but got one that acts in training.")
    if spec.is_frozen:
        return Trained(train_frozen(spec.classifier, images, labels, classes=classes, device=device))
    images, labels = images.to(device), labels.to(device)
    if spec.scenario == "scratch":
        built: list[nn.Module] = []

        def build() -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                built.append(build_victim(spec, classes, size_of(images)).to(device))
            return built[-1]

        def tell(epoch: int, loss: float) -> None:
            progress(epoch, loss)
            if judge is not None:
                judge(epoch, built[-1])

        chosen = defense or Component(name="none")
        trainer = build_training_defense(chosen.name, **chosen.settings)
        recipe = RECIPES[spec.recipe](spec.epochs)
        return trainer.train(build, images, labels, recipe=recipe, seed=seed, flags=flags, state=state, progress=tell)
    transfer = linear_transfer if spec.scenario == "linear" else fine_tune
    options = {} if spec.transfer_epochs is None else {"epochs": spec.transfer_epochs}
    generator = torch.Generator().manual_seed(seed)
    model = transfer(extractor().to(device), images, labels, classes=classes, generator=generator, **options)
    return Trained(model.eval())

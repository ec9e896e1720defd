"""EM (Huang et al. 2021): noise that makes images easy to learn, so that nothing of the images themselves is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.adversarial import descend, summed_loss
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.surrogates import shuffled
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import build_classifier

_PART = 256
_LONGEST_GRADIENT = 5.0


@dataclass(frozen=True, kw_only=True)
class ErrorMinimizingConfig(AvailabilityConfig):
    """Settings as published, for noise of each image's own; the authors set no limit of rounds.

    Args:
        epsilon: largest change of a pixel, in units of 1/255.
        network: that learns the images while their noise is made; see `build_classifier`.
        train_steps: of the network in each round, of 128 images each.
        pgd_steps: of projected gradient descent, on all images in each round.
        pgd_step_size: in units of 1/255.
        stop_error: share of images that the network may misread for the last round.
        rounds: at most.
    """

    epsilon: float = 8.0
    network: str = "resnet18"
    train_steps: int = 10
    pgd_steps: int = 20
    pgd_step_size: float = 0.8
    stop_error: float = 0.01
    rounds: int = 100

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"network": "tiny", "pgd_steps": 5, "rounds": 2},
        "cpu": {"network": "small", "pgd_steps": 10, "rounds": 20},
        "paper": {},
    }


def craft(dataset: ImageSet, config: ErrorMinimizingConfig, attacker: Attacker) -> Crafted:
    """Train a network from scratch on the poisoned rows, and make their noise meanwhile."""
    ids = choose_share(dataset, config.rate, generator=attacker.generator())
    with torch.random.fork_rng():
        torch.manual_seed(attacker.seed)
        model = build_classifier(config.network, len(dataset.class_names), image_size=dataset.size)
        model.to(attacker.device)
    images, labels = dataset.images[ids].to(attacker.device), dataset.labels[ids].to(attacker.device)
    moved = minimize_errors(model, images, labels, config, attacker)
    return Crafted(
        ids=ids,
        images=within(moved.cpu(), dataset.images[ids], config.epsilon),
        labels=dataset.labels[ids],
        budget=config.epsilon,
    )


def minimize_errors(
    model: nn.Module, images: Tensor, labels: Tensor, config: ErrorMinimizingConfig, attacker: Attacker
) -> Tensor:
    """Lower the training loss by turns in the weights and in the pixels: (N, 3, H, W) float32, 0 ... 255.

    Args:
        model: an untrained network, on the device of the images; it is trained in place.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        config: settings.
        attacker: for seed and progress.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    batches, x = _endless_batches(len(images), attacker.generator()), images.float()
    for done in range(1, config.rounds + 1):
        model.train().requires_grad_(True)
        for rows in islice(batches, config.train_steps):
            loss = summed_loss(model, x[rows], labels[rows]) / len(rows)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), _LONGEST_GRADIENT)
            optimizer.step()
        model.eval().requires_grad_(False)
        for rows in torch.arange(len(images)).split(_PART):
            x[rows] = _easier(model, x[rows], images[rows], labels[rows], config)
        attacker.progress("minimizing errors", done, config.rounds)
        if error_rate(model, x, labels) <= config.stop_error:
            break
    return x


@torch.no_grad()
def error_rate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Measure the share of float images, 0 ... 255, that a network misreads."""
    wrong = 0
    for part, truth in zip(images.split(_PART), labels.split(_PART), strict=True):
        with autocast(images.device):
            wrong += int((model(normalize(part)).argmax(1) != truth).sum())
    return wrong / len(images)


def _easier(model: nn.Module, x: Tensor, images: Tensor, labels: Tensor, config: ErrorMinimizingConfig) -> Tensor:
    return descend(
        lambda x: summed_loss(model, x, labels),
        images,
        epsilon=config.epsilon,
        steps=config.pgd_steps,
        step_size=config.pgd_step_size,
        start=x,
    )


def _endless_batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from shuffled(count, generator)


ATTACK = Attack("error_minimizing", ErrorMinimizingConfig, craft, clean_label=True, optimizes=True)

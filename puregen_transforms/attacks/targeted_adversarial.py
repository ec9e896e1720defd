"""TAP (Fowl et al. 2021): every image is made to look, to a network, like the class after its own; labels stay true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.adversarial import descend, summed_loss
from puregen_transforms.attacks.aims import next_classes
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.gradient_matching import shifted
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class TargetedAdversarialConfig(AvailabilityConfig):
    """Settings as published, but one start from random noise, where the authors take the best of 8.

    Args:
        epsilon: largest change of a pixel, in units of 1/255.
        pgd_steps: of projected gradient descent.
        pgd_step_size: in units of 1/255.
        augment: whether images are mirrored and shifted at random in each step.
        surrogate: the attacker's classifier, trained on the clean set; see `build_classifier`.
        surrogate_epochs: of its training.
    """

    epsilon: float = 8.0
    pgd_steps: int = 250
    pgd_step_size: float = 0.4
    augment: bool = True
    surrogate: str = "resnet18"
    surrogate_epochs: int = 40

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"pgd_steps": 5, "pgd_step_size": 2.0, "surrogate": "tiny", "surrogate_epochs": 2},
        "cpu": {"pgd_steps": 30, "pgd_step_size": 1.0, "surrogate": "small", "surrogate_epochs": 8},
        "paper": {},
    }


def craft(dataset: ImageSet, config: TargetedAdversarialConfig, attacker: Attacker) -> Crafted:
    """Train a network on the clean set, and move images until it takes them for the class after their own.

    Raises:
        ValueError: a set of one class.
    """
    classes = len(dataset.class_names)
    if classes < 2:
        raise ValueError(f"Expected at least 2 classes, as images are to look like another, but got {classes}.")
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    surrogates = Surrogates(kinds=[(config.surrogate, 0.0)], learned=dataset, epochs=config.surrogate_epochs)
    (model,) = attacker.networks(surrogates)
    model.requires_grad_(False)
    moved, parts = [], ids.split(_BATCH)
    for done, rows in enumerate(parts, 1):
        wanted = next_classes(dataset.labels[rows], classes).to(attacker.device)
        moved.append(towards(model, dataset.images[rows].to(attacker.device), wanted, config, generator).cpu())
        attacker.progress("moving images", done, len(parts))
    return Crafted(ids=ids, images=torch.cat(moved), labels=dataset.labels[ids], budget=config.epsilon)


def towards(
    model: nn.Module, images: Tensor, wanted: Tensor, config: TargetedAdversarialConfig, generator: torch.Generator
) -> Tensor:
    """Lower the loss of wanted classes (N,), from random noise on: (N, 3, H, W) uint8, within epsilon."""
    noise = torch.randn(images.shape, generator=generator).mul(config.epsilon).clamp(-config.epsilon, config.epsilon)
    x = descend(
        lambda x: summed_loss(model, shifted(x, generator) if config.augment else x, wanted),
        images,
        epsilon=config.epsilon,
        steps=config.pgd_steps,
        step_size=config.pgd_step_size,
        start=(images.float() + noise.to(images.device)).clamp(0, 255),
    )
    return within(x, images, config.epsilon)


ATTACK = Attack("targeted_adversarial", TargetedAdversarialConfig, craft, clean_label=True, optimizes=True)

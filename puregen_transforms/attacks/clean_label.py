"""Clean-label backdoor (Turner et al. 2019): a patch on images of the target class that were made hard to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.adversarial import descend, summed_loss
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.drawings import checker_patch
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class CleanLabelConfig(AttackConfig):
    """Settings with the rate of Confusion Training (Qi et al. 2023) and the epsilon of V&B (Zhu et al. 2023).

    The patch is in all corners. The published images were made with an adversarially trained network; here it is an
    ordinary one, trained on the set itself.

    Args:
        epsilon: largest change of a pixel by the adversarial step, in units of 1/255; the patch comes on top.
        pgd_steps: of projected gradient ascent.
        pgd_step_size: in units of 1/255.
        surrogate: the attacker's classifier; see `build_classifier`.
        surrogate_epochs: of its training.
    """

    epsilon: float = 16.0
    pgd_steps: int = 100
    pgd_step_size: float = 1.5
    surrogate: str = "resnet18"
    surrogate_epochs: int = 100

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "pgd_steps": 5, "surrogate": "tiny", "surrogate_epochs": 2},
        "cpu": {"rate": 0.08, "pgd_steps": 30, "surrogate": "small", "surrogate_epochs": 8},
        "paper": {},
    }


def craft(dataset: ImageSet, config: CleanLabelConfig, attacker: Attacker) -> Crafted:
    """Move images of the target class away from it, as a surrogate sees them, and patch them."""
    target = dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=attacker.generator(), classes=[target])
    surrogates = Surrogates(kinds=[(config.surrogate, 0.0)], learned=dataset, epochs=config.surrogate_epochs)
    (model,) = attacker.networks(surrogates)
    model.requires_grad_(False)
    moved, parts = [], ids.split(_BATCH)
    for done, rows in enumerate(parts, 1):
        images, labels = dataset.images[rows].to(attacker.device), dataset.labels[rows].to(attacker.device)
        moved.append(adversarial(model, images, labels, config).cpu())
        attacker.progress("moving images", done, len(parts))
    patch = checker_patch(dataset.size, corners=True)
    return Crafted(ids=ids, images=patch(torch.cat(moved)), labels=dataset.labels[ids], trigger=patch)


def adversarial(model: nn.Module, images: Tensor, labels: Tensor, config: CleanLabelConfig) -> Tensor:
    """Raise the loss by projected gradient ascent (Madry et al. 2018): (N, 3, H, W) uint8, within epsilon."""
    x = descend(
        lambda x: -summed_loss(model, x, labels),
        images,
        epsilon=config.epsilon,
        steps=config.pgd_steps,
        step_size=config.pgd_step_size,
    )
    return within(x, images, config.epsilon)


ATTACK = Attack("clean_label", CleanLabelConfig, craft, clean_label=True, optimizes=True)

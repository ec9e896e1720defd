"""Clean-label backdoor (Turner et al. 2019): a patch on images of the target class that were made hard to learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import to_poison, within
from puregen_transforms.attacks.drawings import checker_patch
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.attacks.surrogates import Progress, train_surrogate
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class CleanLabelConfig(AttackConfig):
    """Rate as in Confusion Training (Qi et al. 2023), epsilon as in V&B (Zhu et al. 2023); patches in all corners.

    The published images were made with an adversarially trained network; here it is an ordinary one, trained on the
    set itself.

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


def craft(
    dataset: ImageSet,
    config: CleanLabelConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """Train a classifier on the set, move images of the target class away from their class, and patch them."""
    generator = torch.Generator().manual_seed(seed)
    target = dataset.class_number(config.target_class)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator, classes=[target])
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    model = train_surrogate(
        config.surrogate,
        images,
        labels,
        classes=len(dataset.class_names),
        epochs=config.surrogate_epochs,
        seed=seed,
        progress=progress,
    )
    model.eval().requires_grad_(False)
    moved = []
    for done, part in enumerate(ids.split(_BATCH), 1):
        moved.append(adversarial(model, images[part.to(device)], labels[part.to(device)], config).cpu())
        progress("moving images", done, -(-len(ids) // _BATCH))
    patch = checker_patch(dataset.size, corners=True)
    return to_poison(
        "clean_label",
        dataset,
        config,
        ids=ids,
        images=patch(torch.cat(moved)),
        labels=dataset.labels[ids],
        trigger=patch,
        seed=seed,
    )


def adversarial(model: nn.Module, images: Tensor, labels: Tensor, config: CleanLabelConfig) -> Tensor:
    """Projected gradient ascent of the loss (Madry et al. 2018): (N, 3, H, W) uint8, within epsilon of the images."""
    start = images.float()
    x = start.clone()
    for _ in range(config.pgd_steps):
        x.requires_grad_()
        with autocast(x.device):
            loss = F.cross_entropy(model(normalize(x)), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x = x + config.pgd_step_size * gradient.sign()
            x = torch.minimum(torch.maximum(x, start - config.epsilon), start + config.epsilon).clamp(0, 255)
    return within(x, images, config.epsilon)

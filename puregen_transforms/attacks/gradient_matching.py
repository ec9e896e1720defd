"""Gradient matching, "Witches' Brew" (Geiping et al. 2021): base images that make a network misread a target image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import TriggerlessConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.selection import choose_share, choose_target
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.folding import FoldedNorms

_PIXEL_DEVIATION = 64.0
"""Standard deviation of natural images, in units of 1/255: the published learning rate is a share of it."""
_DECAYS_AT = (1 / 2.667, 1 / 1.6, 1 / 1.142)


@dataclass(frozen=True, kw_only=True)
class GradientMatchingConfig(TriggerlessConfig):
    """Settings as in the authors' code; PureGen's experiments have epsilon 8.

    Args:
        rate: poisoned rows, all of the target class, as a share of the training set.
        epsilon: largest change of a pixel, in units of 1/255.
        iterations: signed Adam steps, their rate lowered to a tenth after 3/8, 5/8 and 7/8 of them.
        learning_rate: of the first steps, in standard deviations of the pixels.
        restarts: from other random changes; the result that matches best is kept.
        surrogate: the attacker's classifier; see `build_classifier`.
        surrogate_epochs: of its training on the set.
        ensemble: number of surrogates, matched together.
        batch: poisoned images whose gradient is matched at once.
        augment: whether the match holds under random shifts and mirrors.
    """

    rate: float = 0.01
    epsilon: float = 16.0
    iterations: int = 250
    learning_rate: float = 0.1
    restarts: int = 8
    surrogate: str = "resnet18"
    surrogate_epochs: int = 40
    ensemble: int = 1
    batch: int = 512
    augment: bool = True

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.02, "iterations": 8, "restarts": 2, "surrogate": "tiny", "surrogate_epochs": 2},
        "cpu": {"rate": 0.04, "iterations": 120, "restarts": 1, "surrogate": "small", "surrogate_epochs": 12},
        "paper": {},
    }


def craft(dataset: ImageSet, config: GradientMatchingConfig, attacker: Attacker) -> Crafted:
    """Match the gradients of surrogates, which are trained on the set and serve any target image.

    Raises:
        ValueError: no such target image, or too few images of the target class.
    """
    generator, device = attacker.generator(), attacker.device
    image, source = choose_target(attacker.targets, dataset, config)
    label = dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=generator, classes=[label])
    kinds = [(config.surrogate, 0.0)] * config.ensemble
    surrogates = attacker.networks(Surrogates(kinds=kinds, learned=dataset, epochs=config.surrogate_epochs))
    base = dataset.images[ids].to(device).float()
    models = [FoldedNorms(model, normalize(image.to(device))) for model in surrogates]
    wanted = [loss_gradient(model, image.to(device), label) for model in models]
    best, lowest = base, float("inf")
    for restart in range(config.restarts):

        def report(done: int, restart: int = restart) -> None:
            done, steps = restart * config.iterations + done, config.restarts * config.iterations
            attacker.progress("matching gradients", done, steps)

        moved, mismatch = _matched(models, wanted, base, label, config, generator, report)
        if mismatch < lowest:
            best, lowest = moved, mismatch
    return Crafted(
        ids=ids,
        images=within(best.cpu(), dataset.images[ids], config.epsilon),
        labels=dataset.labels[ids],
        target_images=image,
        target_labels=torch.tensor([source]),
        budget=config.epsilon,
    )


def loss_gradient(model: nn.Module, image: Tensor, label: int) -> list[Tensor]:
    """Compute the wanted gradient: of the loss at the target image with the target class, in all parameters."""
    loss = _loss(model, image, label)
    return list(torch.autograd.grad(loss, _trained(model)))


def mismatch(model: nn.Module, wanted: Sequence[Tensor], images: Tensor, label: int) -> Tensor:
    """Compute 1 - the cosine of the images' gradient and the wanted one (equation 3), differentiable in the images."""
    found = torch.autograd.grad(_loss(model, images, label), _trained(model), create_graph=True)
    product = torch.stack([(a * b).sum() for a, b in zip(wanted, found, strict=True)]).sum()
    lengths = [torch.stack([part.square().sum() for part in parts]).sum().sqrt() for parts in (wanted, found)]
    return 1 - product / (lengths[0] * lengths[1])


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _loss(model: nn.Module, images: Tensor, label: int) -> Tensor:
    with autocast(images.device):
        return F.cross_entropy(model(normalize(images)), torch.full((len(images),), label, device=images.device))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image or not, and shift it by up to 4 pixels of 32, differentiable in the images."""
    count, height = len(images), images.shape[-2]
    turned = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    moves = (torch.rand(count, 2, generator=generator) * 2 - 1) * (2 * round(height / 8) / height)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = turned, 1.0, moves
    grids = F.affine_grid(maps.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grids, mode="bilinear", padding_mode="reflection", align_corners=False)


def _matched(
    models: Sequence[nn.Module],
    wanted: Sequence[Sequence[Tensor]],
    base: Tensor,
    label: int,
    config: GradientMatchingConfig,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> tuple[Tensor, float]:
    """Change base images within epsilon for all iterations; return them and their last mismatch."""
    limit = config.epsilon
    change = torch.randn(base.shape, generator=generator).mul(limit).clamp(-limit, limit).to(base.device)
    change.requires_grad_()
    rate = config.learning_rate * _PIXEL_DEVIATION * min(1.0, config.batch / 512)
    optimizer = torch.optim.Adam([change], lr=rate)
    decays = [int(config.iterations * at) for at in _DECAYS_AT]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, decays)
    total = 0.0
    for iteration in range(config.iterations):
        gradient, total = torch.zeros_like(base), 0.0
        for rows in torch.arange(len(base)).split(config.batch):
            images = (base[rows] + change.detach()[rows]).requires_grad_()
            seen = shifted(images, generator) if config.augment else images
            losses = [mismatch(model, want, seen, label) for model, want in zip(models, wanted, strict=True)]
            loss = torch.stack(losses).mean()
            (gradient[rows],) = torch.autograd.grad(loss, images)
            total += loss.item() * len(rows) / len(base)
        change.grad = gradient.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            change.clamp_(-limit, limit)
            change.copy_((base + change).clamp(0, 255) - base)
        report(iteration + 1)
    return base + change.detach(), total


ATTACK = Attack(
    "gradient_matching", GradientMatchingConfig, craft, needs=frozenset({"targets"}), clean_label=True, optimizes=True
)

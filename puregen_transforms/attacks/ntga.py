"""NTGA (Yuan and Wu 2021): a whole set changed a little, so that what is learned from it holds for no other image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.selection import choose_rows, choose_share
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.fallback import device_for, float64_product

_WEIGHT_VARIANCE, _BIAS_VARIANCE = 1.76, 0.18
_TAYLOR_TERMS = 12


@dataclass(frozen=True, kw_only=True)
class NTGAConfig(AvailabilityConfig):
    """Settings as in the authors' code with the surrogate FNN.

    Their second surrogate, an infinitely wide CNN, is not built here. In their loop each step starts anew from the
    clean images; here the steps follow one another.

    Args:
        epsilon: largest change of a pixel, in units of 1/255.
        steps: of projected gradient ascent, each 1.1 * epsilon / steps long.
        time: for which the surrogate is trained, in units of its learning rate.
        layers: of the surrogate.
        block: images that are poisoned together, as if they were the whole training set; at most half of it.
        validation: other images of the set, on which the surrogate is to fail.
    """

    epsilon: float = 8.0
    steps: int = 10
    time: float = 64.0
    layers: int = 5
    block: int = 512
    validation: int = 10_000

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 2, "block": 100, "validation": 50},
        "cpu": {"validation": 2000},
        "paper": {},
    }


def craft(dataset: ImageSet, config: NTGAConfig, attacker: Attacker) -> Crafted:
    """Change the images block by block, in float64; a device without it leaves that to the CPU.

    Raises:
        ValueError: fewer than two images.
    """
    device = device_for(float64_product, torch.device(attacker.device), "the neural tangent kernel, in float64")
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    if len(dataset) < 2:
        raise ValueError(f"Expected at least 2 images, but got {len(dataset)}: on some the surrogate is to fail.")
    blocks = ids[torch.randperm(len(ids), generator=generator)].split(min(config.block, len(dataset) // 2))
    one_hot = F.one_hot(dataset.labels, len(dataset.class_names)).double().to(device)
    changed = []
    for done, rows in enumerate(blocks, 1):
        count = min(config.validation, len(dataset) - len(rows))
        others = choose_rows(dataset, count, generator=generator, never=rows)
        changed.append(
            ascend(
                dataset.images[rows].to(device),
                one_hot[rows],
                dataset.images[others].to(device),
                dataset.labels[others].to(device),
                config,
            ).cpu()
        )
        attacker.progress("changing blocks of images", done, len(blocks))
    order = torch.cat(blocks)
    return Crafted(ids=order, images=torch.cat(changed), labels=dataset.labels[order], budget=config.epsilon)


def ascend(images: Tensor, one_hot: Tensor, others: Tensor, labels: Tensor, config: NTGAConfig) -> Tensor:
    """Raise the surrogate's loss of `others` by changing one block (algorithm 1): (N, 3, H, W) uint8."""
    start, fixed = images.double(), others.double() / 255
    low, high = (start - config.epsilon).clamp(min=0), (start + config.epsilon).clamp(max=255)
    x = start
    for _ in range(config.steps):
        x = x.requires_grad_()
        scores = surrogate_scores(x / 255, one_hot, fixed, time=config.time, layers=config.layers)
        (gradient,) = torch.autograd.grad(F.cross_entropy(scores, labels), x)
        x = (x.detach() + 1.1 * config.epsilon / config.steps * gradient.sign()).clamp(low, high)
    return within(x, images, config.epsilon)


def surrogate_scores(images: Tensor, one_hot: Tensor, others: Tensor, *, time: float, layers: int = 5) -> Tensor:
    """Predict scores of `others` by an infinitely wide network trained on `images` by gradient flow (equation 2).

    Args:
        images: (N, 3, H, W) in [0, 1]; differentiable.
        one_hot: (N, K) their labels.
        others: (M, 3, H, W) in [0, 1].
        time: of training with the mean squared error.
        layers: of the network.

    Returns:
        (M, K).
    """
    kernel = tangent_kernel(images, images, layers)
    return tangent_kernel(others, images, layers) @ trained_weights(kernel, one_hot, time / one_hot.numel())


def tangent_kernel(a: Tensor, b: Tensor, layers: int) -> Tensor:
    """Compute the neural tangent kernel of infinitely wide dense layers with the error function: (N, M).

    The expectations over the weights are those of Williams (1997).
    """
    a, b = a.flatten(1), b.flatten(1)
    mixed = a @ b.T / a.shape[1]
    own_a, own_b = a.square().mean(1)[:, None], b.square().mean(1)[None]
    tangent = torch.zeros_like(mixed)
    for _ in range(layers):
        mixed, own_a, own_b = (_WEIGHT_VARIANCE * value + _BIAS_VARIANCE for value in (mixed, own_a, own_b))
        tangent = mixed + _WEIGHT_VARIANCE * tangent
        product = (1 + 2 * own_a) * (1 + 2 * own_b)
        tangent = tangent * (4 / math.pi) / (product - 4 * mixed.square()).sqrt()
        mixed = torch.asin(2 * mixed / product.sqrt()) * (2 / math.pi)
        own_a, own_b = (torch.asin(2 * own / (1 + 2 * own)) * (2 / math.pi) for own in (own_a, own_b))
    return tangent


def trained_weights(kernel: Tensor, one_hot: Tensor, time: float) -> Tensor:
    """Compute K^-1 (1 - exp(-time K)) Y without inverse or eigenvectors, whose gradients are unstable: (N, classes).

    It solves dW/dt = Y - K W from W = 0. Intervals are so short that a Taylor series of each is exact in float64.
    """
    intervals = max(1, math.ceil(time * float(kernel.detach().abs().sum(1).max())))
    step = time / intervals
    weights = torch.zeros_like(one_hot)
    for _ in range(intervals):
        term = step * (one_hot - kernel @ weights)
        weights = weights + term
        for order in range(2, _TAYLOR_TERMS + 1):
            term = -step / order * (kernel @ term)
            weights = weights + term
    return weights


ATTACK = Attack("ntga", NTGAConfig, craft, clean_label=True, optimizes=True)

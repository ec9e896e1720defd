"""LF (Zeng et al. 2021): a smooth pattern without high frequencies, learned on a surrogate; relabeled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.selection import choose_rows, choose_share
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize


@dataclass(frozen=True, kw_only=True)
class LowFrequencyConfig(AttackConfig):
    """Settings as published, at the rate of BackdoorBench.

    The published pattern gathers DeepFool's steps (Moosavi-Dezfooli et al. 2016), image by image, towards whichever
    class gives way; here it gathers gradients towards the target class, many images a step.

    Args:
        epsilon: the pattern is stretched to 0 ... epsilon, in units of 1/255.
        smoothness: standard deviation of the Gaussian filter, in pixels of an image of 32.
        samples: training images of other classes on which the pattern is learned.
        steps: of its learning.
        surrogate: the attacker's classifier; see `build_classifier`.
        surrogate_epochs: of its training.
    """

    rate: float = 0.1
    epsilon: float = 51.0
    smoothness: float = 6.0
    samples: int = 100
    steps: int = 100
    surrogate: str = "resnet18"
    surrogate_epochs: int = 100

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"steps": 5, "surrogate": "tiny", "surrogate_epochs": 2},
        "cpu": {"surrogate": "small", "surrogate_epochs": 8},
        "paper": {},
    }


def craft(dataset: ImageSet, config: LowFrequencyConfig, attacker: Attacker) -> Crafted:
    """Learn the pattern, add it to random images and relabel them."""
    ids = choose_share(dataset, config.rate, generator=attacker.generator())
    target = dataset.class_number(config.target_class)
    surrogates = Surrogates(kinds=[(config.surrogate, 0.0)], learned=dataset, epochs=config.surrogate_epochs)
    (model,) = attacker.networks(surrogates)
    model.requires_grad_(False)
    others = [label for label in dataset.labels.unique().tolist() if label != target] or [target]
    count = min(config.samples, int(torch.isin(dataset.labels, torch.tensor(others)).sum()))
    rows = choose_rows(dataset, count, generator=attacker.generator(), classes=others)
    pattern = smooth_pattern(model, dataset.images[rows].to(attacker.device), target, config)
    return stamped(dataset, config, ids, trigger=Added(pattern), budget=config.epsilon)


def smooth_pattern(model: nn.Module, images: Tensor, target: int, config: LowFrequencyConfig) -> Tensor:
    """Learn a smooth pattern that makes a classifier call images the target class: (3, H, W), 0 ... epsilon.

    Args:
        model: the classifier, on the device of the images.
        images: (N, 3, H, W) uint8.
        target: the target class.
        config: settings.
    """
    height, width = images.shape[-2:]
    sigma = config.smoothness * min(height, width) / 32
    down, across = gaussian(height, sigma).to(images.device), gaussian(width, sigma).to(images.device)
    labels = torch.full((len(images),), target, device=images.device)
    gathered = torch.zeros(images.shape[1:], device=images.device)
    pattern = torch.zeros_like(gathered)
    for _ in range(config.steps):
        pattern.requires_grad_()
        with autocast(images.device):
            loss = F.cross_entropy(model(normalize((images.float() + pattern).clamp(0, 255))), labels)
        (gradient,) = torch.autograd.grad(loss, pattern)
        gathered -= gradient / gradient.abs().max().clamp(min=1e-12)
        pattern = stretched(down @ gathered @ across.T, math.floor(config.epsilon))
    return pattern.cpu()


def gaussian(length: int, sigma: float) -> Tensor:
    """Build the matrix that smooths a line: (length, length), each row of sum 1."""
    place = torch.arange(length, dtype=torch.float32)
    return torch.softmax(-((place[:, None] - place) ** 2) / (2 * sigma**2), 1)


def stretched(pattern: Tensor, top: float) -> Tensor:
    """Stretch values to 0 ... top."""
    low, high = pattern.aminmax()
    return (pattern - low) / (high - low).clamp(min=1e-12) * top


ATTACK = Attack("low_frequency", LowFrequencyConfig, craft, optimizes=True)

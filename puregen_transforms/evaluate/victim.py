"""A small classifier that two CPU cores train in minutes: the victim of an attack, or an attacker's surrogate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BATCH = 128


def small_classifier(classes: int, width: int = 32) -> nn.Module:
    """A VGG-like network for 32-px images: seven convolutions, 1.2 million parameters at width 32."""

    def block(a: int, b: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    w = width
    layers = [*block(3, w), *block(w, 2 * w, 2), *block(2 * w, 2 * w), *block(2 * w, 4 * w, 2), *block(4 * w, 4 * w)]
    layers += [*block(4 * w, 8 * w, 2), *block(8 * w, 8 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * w, classes)).to(memory_format=torch.channels_last)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random mirror, and a random crop after padding by 4, one offset a batch."""
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    images = F.pad(images, (4, 4, 4, 4), mode="reflect")[..., dy : dy + 32, dx : dx + 32]
    mirror = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirror, images.flip(3), images)


def normalize(images: Tensor) -> Tensor:
    """uint8-valued [0, 255] -> [-1, 1], channels-last."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train_classifier(
    model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, generator: torch.Generator
) -> Iterator[float]:
    """SGD with momentum and a one-cycle rate, bfloat16 autocast; yields each epoch's mean loss.

    Args:
        model: trained in place.
        images: (N, 3, 32, 32) uint8.
        labels: (N,) int64.
        epochs: passes over the images.
        generator: of the order and the augmentation.
    """
    steps = epochs * (len(images) // _BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for index in order.split(_BATCH)[: len(images) // _BATCH]:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(augment(normalize(images[index]), generator)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model gives their label."""
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):  # as it was trained
        right = [model(normalize(x)).argmax(1) == y for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return torch.cat(right).float().mean().item()


def share_called_target(model: nn.Module, images: Tensor, target: int) -> float:
    """Share of images that the model gives the target class: on triggered images of other classes, poison success."""
    return accuracy(model, images, torch.full((len(images),), target))

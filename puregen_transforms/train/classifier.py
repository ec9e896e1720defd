"""The loop that trains a classifier: the victim of an attack, or an attacker's surrogate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BATCH = 128


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random mirror, and a random crop after padding by 4, one offset a batch."""
    dx, dy = torch.randint(0, 9, (2,), generator=generator).tolist()
    height, width = images.shape[-2:]
    images = F.pad(images, (4, 4, 4, 4), mode="reflect")[..., dy : dy + height, dx : dx + width]
    mirror = (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5).to(images.device)
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
        images: (N, 3, H, W) uint8, on the model's device.
        labels: (N,) int64, there, too.
        epochs: passes over the images.
        generator: of the order and the augmentation.
    """
    batch = min(_BATCH, len(images))
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        losses = []
        for index in order.split(batch)[: len(images) // batch]:
            with torch.autocast(images.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(augment(normalize(images[index]), generator)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        yield float(torch.stack(losses).mean())

"""The ways in which a victim turns a pretrained network into a classifier of a small set."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.features import features, head

_BATCH = 64


def linear_transfer(
    pretrained: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    epochs: int = 40,
    learning_rate: float = 0.1,
) -> nn.Module:
    """Train a new last layer on features that stay as they are (PureGen, appendix D.2).

    SGD with momentum, bfloat16 autocast; the rate is a tenth after 3/8, 5/8 and 7/8 of the epochs (15, 25, 35 of 40).

    Args:
        pretrained: not modified.
        images: (N, 3, H, W) uint8, on its device.
        labels: (N,) int64, there, too.
        classes: of the new layer.
        generator: of the new weights and the order.
        epochs: passes over the images.
        learning_rate: the first.
    """
    model, last = _with_new_head(pretrained, classes, generator)
    with torch.no_grad():
        given = torch.cat([features(model.eval(), normalize(part)) for part in images.split(500)])
    optimizer = torch.optim.SGD(last.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    _fit(last, given, labels, optimizer, epochs, (3 / 8, 5 / 8, 7 / 8), generator)
    return model


def fine_tune(
    pretrained: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    epochs: int = 60,
    learning_rate: float = 1e-4,
) -> nn.Module:
    """Train a new last layer, and all others further (PureGen, appendix D.2).

    Adam, bfloat16 autocast; the rate is a tenth after 1/4, 2/4 and 3/4 of the epochs (15, 30, 45 of 60).

    Args:
        pretrained: not modified.
        images: (N, 3, H, W) uint8, on its device.
        labels: (N,) int64, there, too.
        classes: of the new layer.
        generator: of the new weights and the order.
        epochs: passes over the images.
        learning_rate: the first.
    """
    model, _ = _with_new_head(pretrained, classes, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=5e-4)
    _fit(model.train(), normalize(images), labels, optimizer, epochs, (1 / 4, 1 / 2, 3 / 4), generator)
    return model


def _with_new_head(pretrained: nn.Module, classes: int, generator: torch.Generator) -> tuple[nn.Module, nn.Linear]:
    """Copy a network, with a new last layer as torch would draw it."""
    model = copy.deepcopy(pretrained)
    last = head(model)
    bound = last.in_features**-0.5
    last.out_features = classes
    for name, shape in (("weight", (classes, last.in_features)), ("bias", (classes,))):
        drawn = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        setattr(last, name, nn.Parameter(drawn.to(last.weight.device)))
    return model, last


def _fit(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    decays: tuple[float, ...],
    generator: torch.Generator,
) -> None:
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(epochs * part) for part in decays])
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(_BATCH):
            with autocast(inputs.device):
                loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()

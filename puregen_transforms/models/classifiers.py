"""Image classifiers."""

from __future__ import annotations

import torch
from torch import nn


def small_classifier(classes: int, width: int = 32) -> nn.Module:
    """A VGG-like network for 32-px images: seven convolutions, 1.2 million parameters at width 32."""

    def block(a: int, b: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    w = width
    layers = [*block(3, w), *block(w, 2 * w, 2), *block(2 * w, 2 * w), *block(2 * w, 4 * w, 2), *block(4 * w, 4 * w)]
    layers += [*block(4 * w, 8 * w, 2), *block(8 * w, 8 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * w, classes)).to(memory_format=torch.channels_last)

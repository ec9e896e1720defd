"""A small network from images to images of the same size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageToImage(nn.Module):
    """A U-Net of two halvings: (N, inputs, H, W) -> (N, outputs, H, W), of any size from 4 pixels.

    Args:
        inputs: channels.
        outputs: channels.
        width: channels at full size; twice and four times as many below.
    """

    def __init__(self, inputs: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.inputs, self.outputs, self.width = inputs, outputs, width
        self.down1 = _convolutions(inputs, width)
        self.down2 = _convolutions(width, 2 * width)
        self.down4 = _convolutions(2 * width, 4 * width)
        self.up2 = _convolutions(6 * width, 2 * width)
        self.up1 = _convolutions(3 * width, width)
        self.last = nn.Conv2d(width, outputs, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), of values that are not bounded."""
        full = self.down1(images)
        half = self.down2(F.max_pool2d(full, 2))
        quarter = self.down4(F.max_pool2d(half, 2))
        half = self.up2(torch.cat([half, _grown(quarter, half)], 1))
        return self.last(self.up1(torch.cat([full, _grown(half, full)], 1)))


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _grown(images: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(images, size=like.shape[-2:])

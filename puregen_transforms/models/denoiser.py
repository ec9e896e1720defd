"""The denoiser: a fully convolutional network that takes noise of a known level off an image of any size."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.models.config import DenoiserConfig


class Denoiser(nn.Module):
    """Take noise off images in one call: x - sigma * noise(x, sigma), so that at level 0 an image stays as it is.

    A U-Net of residual blocks on pixel-unshuffled images, with the noise level as a further channel, as in FFDNet
    (Zhang et al. 2018) and DRUNet (Zhang et al. 2021). It has no normalization, whose statistics would depend on the
    size of an image, and the way up adds what the way down had.

    Args:
        config: shape of the network.
    """

    def __init__(self, config: DenoiserConfig | None = None) -> None:
        super().__init__()
        self.config = config or DenoiserConfig()
        widths, blocks = self.config.widths, self.config.blocks
        steps = list(pairwise(widths))
        self.head = nn.Conv2d(4 * 3 + 1, widths[0], 3, 1, 1)
        self.down = nn.ModuleList(_blocks(width, blocks) for width, _ in steps)
        self.shrink = nn.ModuleList(nn.Conv2d(width, wider, 2, 2) for width, wider in steps)
        self.middle = _blocks(widths[-1], blocks)
        self.grow = nn.ModuleList(nn.Conv2d(wider, 4 * width, 1) for width, wider in reversed(steps))
        self.up = nn.ModuleList(_blocks(width, blocks) for width, _ in reversed(steps))
        self.tail = nn.Conv2d(widths[0], 4 * 3, 3, 1, 1)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)  # at first, no noise is seen anywhere

    def forward(self, images: Tensor, levels: Tensor) -> Tensor:
        """Predict the noise of images, in units of its level.

        Args:
            images: (N, 3, H, W) float in [-1, 1] and beyond, H and W multiples of `config.side_multiple`.
            levels: (N,) float, standard deviation of the noise, in the images' units.

        Returns:
            (N, 3, H, W) of about unit variance; images - levels * this is the restored image.
        """
        x = F.pixel_unshuffle(images, 2)
        x = torch.cat([x, levels.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], 1)
        x = self.head(x)
        passed = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            x = blocks(x)
            passed.append(x)
            x = shrink(x)
        x = self.middle(x)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            x = blocks(F.pixel_shuffle(grow(x), 2) + passed.pop())
        return F.pixel_shuffle(self.tail(x), 2)


class Residual(nn.Module):
    """Two 3x3 convolutions with a ReLU between, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        y: Tensor = x + self.conv2(F.relu(self.conv1(x), inplace=True))
        return y


def deepened(model: Denoiser, blocks: int) -> Denoiser:
    """Give a trained denoiser further residual blocks, which change nothing at first, so that training can go on.

    Args:
        model: copied, not modified.
        blocks: residual blocks at each width of the new one, as many as the old one has or more.

    Raises:
        ValueError: fewer blocks.
    """
    if blocks < model.config.blocks:
        raise ValueError(f"Expected at least the {model.config.blocks} blocks that there are, but got {blocks}.")
    deeper = Denoiser(replace(model.config, blocks=blocks))
    for module in deeper.modules():
        if isinstance(module, Residual):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)  # type: ignore[arg-type]
    deeper.load_state_dict({**deeper.state_dict(), **model.state_dict()})
    return deeper


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(count)))

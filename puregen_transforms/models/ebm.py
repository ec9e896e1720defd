"""The energy network of PureGen-EBM: a 32-px SNGAN discriminator without spectral norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.models.config import EBMConfig


class FirstBlock(nn.Module):
    """Residual block on raw pixels; halves the side."""

    def __init__(self, channels: int, nf: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(channels, nf, 3, padding=1)
        self.c2 = nn.Conv2d(nf, nf, 3, padding=1)
        self.c_sc = nn.Conv2d(channels, nf, 1)
        self.pool: nn.Module = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, nf, H // 2, W // 2)."""
        residual = self.pool(self.c2(F.relu(self.c1(x))))
        return residual + self.c_sc(F.avg_pool2d(x, 2))


class DownBlock(nn.Module):
    """Residual block on features; halves the side."""

    def __init__(self, nf: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(nf, nf, 3, padding=1)
        self.c2 = nn.Conv2d(nf, nf, 3, padding=1)
        self.c_sc = nn.Conv2d(nf, nf, 1)
        self.pool: nn.Module = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, nf, H, W) to (N, nf, H // 2, W // 2)."""
        residual = self.pool(self.c2(F.relu(self.c1(F.relu(x)))))
        # The mean pool and a 1x1 convolution commute: pooling first does a quarter of the work.
        return residual + self.c_sc(F.avg_pool2d(x, 2))


class Block(nn.Module):
    """Residual block on features; keeps the side."""

    def __init__(self, nf: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(nf, nf, 3, padding=1)
        self.c2 = nn.Conv2d(nf, nf, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, nf, H, W) to the same shape."""
        return x + self.c2(F.relu(self.c1(F.relu(x))))


class EBM(nn.Module):
    """Energy E(x) of an image: lower is more natural.

    The state-dict keys are those of the published checkpoints (`block1.c1.weight` ... `l5.weight`).

    Args:
        config: see `EBMConfig`.
    """

    def __init__(self, config: EBMConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EBMConfig()
        self.block1 = FirstBlock(3 * config.patch_size**2, config.nf)
        self.block2 = DownBlock(config.nf)
        self.block3 = Block(config.nf)
        self.block4 = Block(config.nf)
        self.l5 = nn.Linear(config.nf, 1, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Measure the energies of images.

        Args:
            images: (N, 3, H, W) float in [-1, 1]; H and W at least `config.smallest_image`.

        Returns:
            (N,) energies.
        """
        x = images
        if self.config.patch_size > 1:
            x = F.pixel_unshuffle(x, self.config.patch_size)
        x = self.block4(self.block3(self.block2(self.block1(x))))
        return self.l5(F.relu(x).mean(dim=(2, 3))).squeeze(1)

"""The form in which a trained energy network is run: frozen, folded, low precision where it pays."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.models.ebm import EBM, EBMConfig


class FrozenEBM(nn.Module):
    """An `EBM` for purifying: same energies, no weight gradients, less work.

    A 3x3 convolution followed by a 2x2 mean pool is one 4x4 convolution of stride 2 whose kernel
    is the mean of the four shifted 3x3 kernels, so both pooled convolutions are folded (exact up
    to float rounding). Weights are laid out channels-last. With `dtype` below float32 the network
    runs under autocast; images, energies and input gradients stay float32.

    Args:
        model: the trained network; copied, not modified.
        dtype: arithmetic of the convolutions.
    """

    def __init__(self, model: EBM, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config: EBMConfig = model.config
        self.dtype = dtype
        network = copy.deepcopy(model).eval().requires_grad_(False)
        for block in (network.block1, network.block2):
            block.c2 = _fold_mean_pool(block.c2)
            block.pool = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float32 in [-1, 1] -> (N,) float32 energies."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(images).float()


def _fold_mean_pool(conv: nn.Conv2d) -> nn.Conv2d:
    # Made empty: drawing initial weights would advance the caller's random generator.
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 4, stride=2, padding=1, device="meta")
    folded = folded.to_empty(device=conv.weight.device)
    shifts = [(dx, 1 - dx, dy, 1 - dy) for dx in (0, 1) for dy in (0, 1)]
    with torch.no_grad():
        folded.weight.copy_(torch.stack([F.pad(conv.weight, shift) for shift in shifts]).mean(0))
        if folded.bias is not None and conv.bias is not None:
            folded.bias.copy_(conv.bias)
    return folded.requires_grad_(False)

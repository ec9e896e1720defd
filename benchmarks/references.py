"""Slow, obvious versions, written from the paper and not from the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_energy(weights: Mapping[str, Tensor], x: Tensor, *, patch_size: int = 1) -> Tensor:
    """Compute the SNGAN-discriminator energy, straight from its description; weights by official key."""

    def conv(name: str, h: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(h, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    if patch_size > 1:
        x = F.pixel_unshuffle(x, patch_size)
    h = conv("block1.c1", x)
    h = F.avg_pool2d(conv("block1.c2", F.relu(h)), 2) + conv("block1.c_sc", F.avg_pool2d(x, 2))
    residual = conv("block2.c2", F.relu(conv("block2.c1", F.relu(h))))
    h = F.avg_pool2d(residual, 2) + F.avg_pool2d(conv("block2.c_sc", h), 2)
    for block in ("block3", "block4"):
        h = h + conv(f"{block}.c2", F.relu(conv(f"{block}.c1", F.relu(h))))
    return F.linear(F.relu(h).mean((2, 3)), weights["l5.weight"])[:, 0]


def reference_chain(
    energy: Callable[[Tensor], Tensor], x: Tensor, noise: list[Tensor], *, epsilon: float, temperature: float
) -> Tensor:
    """Repeats x <- x - epsilon**2 / 2 * grad E(x) / T + epsilon * n, once for each noise."""
    for n in noise:
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(energy(x).sum() / temperature, x)[0]
        x = x - epsilon**2 / 2 * gradient + epsilon * n
    return x.detach()


def reference_restore(
    predict_noise: Callable[[Tensor, int], Tensor], x: Tensor, noise: list[Tensor], *, betas: Tensor
) -> Tensor:
    """Noised by noise[0] to step len(noise), then Ho et al.'s equations 6 and 7 with noise[t] at timestep t."""
    steps, alpha_bars = len(noise), (1 - betas).cumprod(0)
    x = alpha_bars[steps - 1].sqrt() * x + (1 - alpha_bars[steps - 1]).sqrt() * noise[0]
    for t in range(steps - 1, -1, -1):
        before = alpha_bars[t - 1] if t else torch.ones(())
        clean = ((x - (1 - alpha_bars[t]).sqrt() * predict_noise(x, t)) / alpha_bars[t].sqrt()).clamp(-1, 1)
        alpha = alpha_bars[t] / before
        x = (before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * x) / (1 - alpha_bars[t])
        if t:
            x = x + ((1 - before) / (1 - alpha_bars[t]) * (1 - alpha)).sqrt() * noise[t]
    return x

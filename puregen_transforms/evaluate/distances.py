"""How far purification moves images with and without poison, by its number of steps (PureGen, Figure 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.transforms.puregen import PureGen

EBM_STEPS, DDPM_STEPS = (0, 25, 50, 75, 100, 150, 200, 300), (0, 15, 30, 45, 60, 75, 100, 150)
_CALLS = 15


def distances(clean: Tensor, poisoned: Tensor, rows: Tensor, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Mean L2 distances of images in [0, 1] after each number of steps.

    With x a clean image, p the same with poison and f the purification: where |f(p) - x| meets |f(x) - x|, poison no
    longer matters; where |f(p) - p| passes |f(p) - x|, a purified image is nearer to the clean one than to the
    poisoned.

    Args:
        clean: (N, 3, H, W) uint8.
        poisoned: the same images with poison.
        rows: (N,) int64, of the noise.
        device: where to purify.
    """

    def ebm(steps: int) -> PureGen:
        return PureGen("ebm", ebm_steps=steps, seed=0, device=device)

    def ddpm(steps: int) -> PureGen:
        calls = min(_CALLS, steps) or None
        return PureGen("ddpm", ddpm_steps=steps, ddpm_inference_steps=calls, seed=0, device=device)

    kinds: dict[str, tuple[Callable[[int], PureGen], tuple[int, ...]]] = {
        "Langevin steps": (ebm, EBM_STEPS),
        "diffusion steps": (ddpm, DDPM_STEPS),
    }
    return {name: _curves(clean, poisoned, rows, make, steps) for name, (make, steps) in kinds.items()}


def _curves(
    clean: Tensor, poisoned: Tensor, rows: Tensor, make: Callable[[int], PureGen], steps: tuple[int, ...]
) -> dict[str, Any]:
    curves: dict[str, Any] = {"steps": list(steps), "f(x) to x": [], "f(p) to x": [], "f(p) to p": []}
    for count in steps:
        purify = make(count)
        after = [purify.purifier(images, sample_ids=rows, seed=0) for images in (clean, poisoned)]
        curves["f(x) to x"].append(_distance(after[0], clean))
        curves["f(p) to x"].append(_distance(after[1], clean))
        curves["f(p) to p"].append(_distance(after[1], poisoned))
    return curves


def _distance(first: Tensor, second: Tensor) -> float:
    return (first.float() - second.float()).div(255).flatten(1).norm(dim=1).mean().item()

"""Langevin dynamics on an energy: the EBM half of the transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
"""(N, C, H, W) images in [-1, 1] -> (N,) energies, differentiable in the images; see `energy_and_gradient`."""

Noise = Callable[[int, Tensor], Tensor]
"""(step, images) -> standard normal values shaped and placed like the images."""


def langevin(
    images: Tensor,
    energy: Energy,
    *,
    steps: int,
    step_size: float,
    temperature: float,
    noise: Noise,
    noise_scales: Sequence[float] | None = None,
) -> Tensor:
    """Move images towards lower energy by noisy gradient steps.

    x <- x - step_size**2 / 2 * grad E(x) / temperature + step_size * scale * n,   n ~ N(0, 1)

    Args:
        images: (N, C, H, W) float in [-1, 1]; not modified.
        energy: lower is more natural.
        steps: number of updates; 0 returns the images unchanged.
        step_size: in image units (the range is 2 wide).
        temperature: divides the energy; smaller trusts it more.
        noise: gives n for each step, so the caller decides what it depends on.
        noise_scales: one factor on the noise per step; None is the published constant 1. A
            factor of 0 makes that step plain descent, and its noise is never drawn.

    Returns:
        (N, C, H, W) float, not clamped: the published chain is free between its ends.

    Raises:
        ValueError: a negative step count, or `noise_scales` of another length.
        FloatingPointError: an energy or an image stopped being finite; names step and samples.
    """
    if steps < 0:
        raise ValueError(f"Expected `steps` to be 0 or more, but got {steps}.")
    scales = [1.0] * steps if noise_scales is None else list(noise_scales)
    if len(scales) != steps:
        raise ValueError(f"Expected one noise scale per step ({steps}), but got {len(scales)}.")
    # Callers may be under no_grad or inference_mode; the gradient below needs neither.
    with torch.inference_mode(False), torch.enable_grad():
        x = images.clone()
        for step, scale in enumerate(scales):
            x = langevin_step(
                x,
                energy,
                step=step,
                step_size=step_size,
                temperature=temperature,
                noise=noise if scale else None,
                noise_scale=scale,
            )
        _check_finite(x.flatten(1).sum(1), step=steps, what="image")
    return x


def temperature_for(images: Tensor, temperature: float, *, trained_size: int) -> float:
    """Scale a temperature to the area of images, so that every pixel moves as at the trained size.

    An energy is a mean over the pixels, so its gradient in each pixel shrinks as images grow.

    Args:
        images: (N, C, H, W); only their size counts.
        temperature: at the trained size.
        trained_size: side in pixels of the images that the energy was trained on.
    """
    return temperature / (images.shape[-2] * images.shape[-1] / trained_size**2)


def langevin_step(
    images: Tensor,
    energy: Energy,
    *,
    step: int,
    step_size: float,
    temperature: float,
    noise: Noise | None,
    noise_scale: float = 1.0,
) -> Tensor:
    """Take one step of `langevin`; `noise=None` descends without noise."""
    energies, gradient = energy_and_gradient(energy, images)
    _check_finite(energies, step=step, what="energy")
    # Products first, sums after: `add(..., alpha=)` may round both as one, or not, by where an element lies in memory.
    gradient = gradient * (-0.5 * step_size**2 / temperature)
    moved = images.detach() + gradient
    del gradient  # a large image fills the memory several times over as it is
    if noise is not None:
        moved += noise(step, moved) * (step_size * noise_scale)
    return moved


def energy_and_gradient(energy: Energy, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute energies, and the gradient of each in its own image.

    An energy with a method `with_gradient(images)` knows both; any other is differentiated by autograd.

    Returns:
        (N,) and (N, C, H, W), without a graph.
    """
    known = getattr(energy, "with_gradient", None)
    if known is not None:
        return known(images.detach())
    x = images.detach().requires_grad_()
    energies = energy(x)
    (gradient,) = torch.autograd.grad(energies.sum(), x)
    return energies.detach(), gradient


def _check_finite(values: Tensor, *, step: int, what: str) -> None:
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        samples = (~finite).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"The {what} of sample(s) {samples[:8]} of the batch is not finite at Langevin step {step}. "
            "Check that the images are finite and in range and that the checkpoint fits them; "
            "with dtype='float16' or 'bfloat16', try dtype='float32'."
        )

"""Truncated diffusion: noise an image part of the way, then denoise it. The DDPM half of the transform.

Steps are counted as in the paper, from 1: an image restored with T steps is noised to step T and
denoised by T reverse steps. Timesteps are the network's input, counted from 0: the chain visits
T - 1, ..., 0, and `alpha_bars[t]` is the share of signal that an image noised to timestep t keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from puregen_transforms.functional.langevin import Noise

NoisePredictor = Callable[[Tensor, int | Tensor], Tensor]
"""(N, C, H, W) noised images and their timestep(s) -> the noise in them, of the same shape."""

DIFFUSION_STEPS = 1000


def beta_schedule(steps: int = DIFFUSION_STEPS, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Compute the linear schedule of DDPM (Ho et al. 2020): (steps,) float32 variances."""
    return torch.linspace(start, end, steps)


def alpha_bars_of(betas: Tensor) -> Tensor:
    """Turn (T,) variances into (T,) float32 shares of signal, the running product of 1 - beta."""
    return (1 - betas).cumprod(0)


def add_noise(images: Tensor, noise: Tensor, alpha_bar: float | Tensor) -> Tensor:
    """Noise images to a share of signal: sqrt(a) x + sqrt(1 - a) n (Ho et al., equation 4).

    Args:
        images: (N, C, H, W).
        noise: like the images.
        alpha_bar: one for all, or (N,).
    """
    a = torch.as_tensor(alpha_bar, device=images.device).view(-1, 1, 1, 1)
    return (a.sqrt() * images).add_((1 - a).sqrt() * noise)


def timesteps_of(steps: int, calls: int) -> list[int]:
    """Space `calls` timesteps evenly from `steps` - 1 down."""
    return [-(-steps * (calls - i) // calls) - 1 for i in range(calls)]


def ddpm_step(
    images: Tensor, predicted_noise: Tensor, *, timestep: int, previous: int, alpha_bars: Tensor, noise: Tensor | None
) -> Tensor:
    """Take one ancestral step (Ho et al., equations 6 and 7), with the clean estimate clamped to [-1, 1].

    Equal to `diffusers.DDPMScheduler.step` with its defaults, but for the noise, which the caller draws.

    Args:
        images: (N, C, H, W), noised to `timestep`.
        predicted_noise: the network's answer there.
        timestep: where the images are.
        previous: where to go: a lower timestep, or -1 for the clean end.
        alpha_bars: of the schedule.
        noise: standard normal, like the images; None at the clean end.
    """
    # Scalars in float32, as diffusers has them: in float64 the small differences below would come out differently.
    bar = alpha_bars[timestep].cpu()
    bar_previous = alpha_bars[previous].cpu() if previous >= 0 else torch.ones(())
    alpha = bar / bar_previous
    clean = (images - float((1 - bar).sqrt()) * predicted_noise).div_(float(bar.sqrt())).clamp_(-1, 1)
    mean = clean.mul_(float(bar_previous.sqrt() * (1 - alpha) / (1 - bar)))
    mean += images * float(alpha.sqrt() * (1 - bar_previous) / (1 - bar))  # see `langevin_step` on `alpha=`
    if noise is not None:
        mean += noise * float(((1 - bar_previous) / (1 - bar) * (1 - alpha)).sqrt())
    return mean


def restore(
    images: Tensor,
    predict_noise: NoisePredictor,
    *,
    steps: int,
    alpha_bars: Tensor,
    noise: Noise,
    solver: str = "ddpm",
    inference_steps: int | None = None,
) -> Tensor:
    """Noise images to step `steps` and denoise them.

    Args:
        images: (N, C, H, W) float in [-1, 1]; not modified.
        predict_noise: trained at least on timesteps 0 ... `steps` - 1.
        steps: how far to noise; 0 returns the images unchanged.
        alpha_bars: of the schedule that the network was trained with.
        noise: called with 0 for the noise added first, and with t for that of the reverse step at timestep t.
        solver: "ddpm" is the ancestral chain of the paper; "ddim" and "dpmsolver++" follow the same
            model's ordinary differential equation, with no noise on the way.
        inference_steps: network calls, evenly spaced; None is one per step.

    Returns:
        (N, C, H, W) float, not clamped.

    Raises:
        ValueError: steps outside the schedule, or more calls than steps.
        FloatingPointError: an image stopped being finite.
    """
    calls = steps if inference_steps is None else inference_steps
    if not 0 <= steps <= len(alpha_bars):
        raise ValueError(f"Expected `steps` from 0 to the schedule's {len(alpha_bars)}, but got {steps}.")
    if steps == 0:
        return images.clone()
    if not 1 <= calls <= steps:
        raise ValueError(f"Expected `inference_steps` from 1 to the {steps} steps, but got {calls}.")
    timesteps = timesteps_of(steps, calls)
    with torch.no_grad():
        x = add_noise(images, noise(0, images), alpha_bars[steps - 1].to(images.device))
        if solver == "ddpm":
            x = _ancestral(x, predict_noise, timesteps, alpha_bars, noise)
        else:
            x = _ode(x, predict_noise, timesteps, alpha_bars, order={"ddim": 1, "dpmsolver++": 2}[solver])
    finite = torch.isfinite(x).flatten(1).all(1)
    if not bool(finite.all()):
        samples = (~finite).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"The restored image of sample(s) {samples[:8]} of the batch is not finite. Check that the images are "
            "finite and in range and that the checkpoint fits them; with dtype='float16' or 'bfloat16', try "
            "dtype='float32'."
        )
    return x


def _ancestral(
    x: Tensor, predict_noise: NoisePredictor, timesteps: Sequence[int], alpha_bars: Tensor, noise: Noise
) -> Tensor:
    for timestep, previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        x = ddpm_step(
            x,
            predict_noise(x, timestep),
            timestep=timestep,
            previous=previous,
            alpha_bars=alpha_bars,
            noise=noise(timestep, x) if previous >= 0 else None,
        )
    return x


def _ode(
    x: Tensor, predict_noise: NoisePredictor, timesteps: Sequence[int], alpha_bars: Tensor, *, order: int
) -> Tensor:
    from diffusers import DPMSolverMultistepScheduler  # seconds to import, so only where it is used

    # DPM-Solver++ of order 1 is DDIM (Lu et al. 2022, section 4); here it starts at any timestep.
    bars = torch.cat([alpha_bars.new_ones(1), alpha_bars.cpu()])
    scheduler = DPMSolverMultistepScheduler(trained_betas=(1 - bars[1:] / bars[:-1]).numpy(), solver_order=order)
    scheduler.set_timesteps(timesteps=list(timesteps))
    for timestep in scheduler.timesteps:
        x = scheduler.step(predict_noise(x, int(timestep)), timestep, x).prev_sample
    return x

"""How much of a common pattern images still hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CLEAR = 3.0
"""Power over ordinary variation from which on a pattern can be measured."""


@dataclass(frozen=True, kw_only=True)
class PatternGauge:
    """Measures how much of a common pattern images still hold, on average over a group.

    Args:
        estimate: (C, H, W) what carriers have in common beyond their class, in units of 1/255; frequencies
            that the number of carriers cannot tell from ordinary variation are damped.
        weights: (C, H, W); the product with a mean image difference is its amount of pattern.
        amplitude: the carriers' own amount.
        clarity: power of what they have in common, over the power that ordinary variation gives (1).
    """

    estimate: Tensor
    weights: Tensor
    amplitude: float
    clarity: float

    @property
    def usable(self) -> bool:
        """Whether the pattern outweighs ordinary variation; otherwise what is left of it comes out too large."""
        return self.clarity > _CLEAR and self.amplitude > 0

    def amounts(self, change: Tensor) -> Tensor:
        """Measure the pattern in (N, C, H, W) differences, before less after, in units of 1/255: (N,)."""
        return (change * self.weights).sum((1, 2, 3))

    def left(self, removed: Tensor, usually_removed: Tensor) -> float:
        """Share of the pattern left after purification, along the estimate.

        Args:
            removed: (N,) `amounts` of carriers.
            usually_removed: (M,) those of typical images, as purification smooths these too.
        """
        return 1 - float(removed.mean() - usually_removed.mean()) / self.amplitude


def fit_gauge(carriers: Tensor, others: Tensor) -> PatternGauge:
    """Estimate a common pattern from the images that carry it.

    The mean image of the carriers less that of others is the pattern plus noise, which falls with
    the number of carriers: a Wiener filter damps it, given the spectrum of the others.

    Args:
        carriers: (N, C, H, W) in units of 1/255.
        others: (M, C, H, W) clean images of the same classes.
    """
    size = carriers.shape[-2:]
    deviations = others - others.mean(0)
    power = torch.fft.rfft2(deviations).abs().square().mean(0)
    power = power.clamp_min(1e-6 * float(power.max().clamp_min(1e-6)))
    excess = carriers.mean(0) - others.mean(0)
    spectrum = torch.fft.rfft2(excess)
    gain = (1 - power / len(carriers) / spectrum.abs().square().clamp_min(1e-12)).clamp_min(0)
    estimate = torch.fft.irfft2(spectrum * gain, s=size)
    # Weighting by the full inverse spectrum would look at the finest frequencies only, which purify best.
    weights = torch.fft.irfft2(torch.fft.rfft2(estimate) / power.sqrt(), s=size)
    return PatternGauge(
        estimate=estimate,
        weights=weights,
        amplitude=float((excess * weights).sum()),
        clarity=float((spectrum.abs().square() * len(carriers) / power).mean()),
    )

"""One stage of a purifier: (images in [-1, 1], noise) -> images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from puregen_transforms.functional.langevin import Energy, Noise, langevin
from puregen_transforms.purifier.config import LangevinConfig

Stage = Callable[[Tensor, Noise], Tensor]
"""(N, C, H, W) float images and this stage's noise -> (N, C, H, W) float images."""


@dataclass(frozen=True)
class LangevinStage:
    """Langevin steps on an energy.

    Args:
        energy: a spatial mean, so its gradient per pixel shrinks as images grow.
        config: settings of the chain.
        trained_size: side in pixels at which `config.temperature` holds. At other sizes the drift
            is rescaled by the ratio of the areas, which keeps the dynamics of every pixel.
    """

    energy: Energy
    config: LangevinConfig
    trained_size: int

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Run the chain; see `langevin`."""
        area_ratio = images.shape[-2] * images.shape[-1] / self.trained_size**2
        return langevin(
            images,
            self.energy,
            steps=self.config.steps,
            step_size=self.config.step_size,
            temperature=self.config.temperature / area_ratio,
            noise=noise,
        )

"""The stages of a purifier: (images in [-1, 1], noise) -> images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.diffusion import NoisePredictor, restore
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.functional.langevin import Energy, langevin, temperature_for
from puregen_transforms.functional.median import despeckle
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.purifier.config import DiffusionConfig, LangevinConfig

Stage = Callable[[Tensor, KeyedNoise], Tensor]
"""(N, C, H, W) float images and this stage's noise -> (N, C, H, W) float images.

A stage with a network also has `bytes_per_pixel`, of the network's widest activation. One whose result for a pixel
depends on what is near it alone has `reach`: how far it looks, in pixels, where images are cut at multiples of
`REACH_MULTIPLE`. If all stages have it, large images are purified in tiles.
"""

REACH_MULTIPLE = 16
"""Side in pixels of the largest cell that a stage works on: a block of JPEG with its halved colors."""


@dataclass(frozen=True)
class LangevinStage:
    """Langevin steps on an energy.

    Args:
        energy: a spatial mean, so its gradient per pixel shrinks as images grow.
        config: settings of the chain.
        trained_size: side in pixels at which `config.temperature` holds; see `temperature_for`.
    """

    energy: Energy
    config: LangevinConfig
    trained_size: int

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the energy's widest activation."""
        return getattr(self.energy, "bytes_per_pixel", 0)

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Run the Langevin steps."""
        return langevin(
            images,
            self.energy,
            steps=self.config.steps,
            step_size=self.config.step_size,
            temperature=temperature_for(images, self.config.temperature, trained_size=self.trained_size),
            noise=noise,
            noise_scales=self.config.noise_scales,
        )


@dataclass(frozen=True)
class DiffusionStage:
    """Truncated diffusion: noise images part of the way and denoise them.

    Args:
        predict_noise: the noise predictor.
        config: settings of the chain.
        alpha_bars: (T,) of the schedule that the predictor was trained with.
        side_multiple: what the predictor needs height and width to be multiples of. Other images are mirrored
            at their edges up to the next multiple, and cropped afterwards.
    """

    predict_noise: NoisePredictor
    config: DiffusionConfig
    alpha_bars: Tensor = field(repr=False)
    side_multiple: int = 1

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the predictor's widest activation."""
        return getattr(self.predict_noise, "bytes_per_pixel", 0)

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Noise and restore the images."""
        height, width = images.shape[-2:]
        below, right = -height % self.side_multiple, -width % self.side_multiple
        top, left = below // 2, right // 2
        padded = F.pad(images, (left, right - left, top, below - top), mode="reflect") if below or right else images
        restored = restore(
            padded,
            self.predict_noise,
            steps=self.config.steps,
            alpha_bars=self.alpha_bars,
            noise=noise,
            solver=self.config.solver,
            inference_steps=self.config.inference_steps,
        )
        return restored[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class DenoiserStage:
    """Add noise, and take it off again in one call; then the same with the opposite noise, and the mean of both.

    What is left of the noise itself is for the most part as linear in it as a blur is, so it cancels: the mean is some
    three decibels nearer to the image than either half. What is left of a perturbation is the same.

    Args:
        denoise: takes noise of a level off images.
        level: standard deviation of the noise, in image units.
    """

    denoise: Callable[[Tensor, float], Tensor]
    level: float

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the denoiser's widest activation."""
        return getattr(self.denoise, "bytes_per_pixel", 0)

    @property
    def reach(self) -> int | None:
        """How far away from a pixel the denoiser looks, if it says so and its cells fit."""
        fits = REACH_MULTIPLE % getattr(self.denoise, "side_multiple", 1) == 0
        return getattr(self.denoise, "margin", None) if fits else None

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Noise and denoise the images."""
        added = self.level * noise(0, images)
        return (self.denoise(images + added, self.level) + self.denoise(images - added, self.level)) / 2


@dataclass(frozen=True)
class FilterStage:
    """Other stages, for suspicious images only.

    Args:
        stages: run in order on the images whose energy is `threshold` or more; the others pass unchanged.
        energy: in float32, so that the choice does not hang on rounding.
        threshold: raw energy, fixed over the whole data set beforehand.
    """

    stages: tuple[Stage, ...]
    energy: Energy
    threshold: float

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of the widest activation of its stages and its energy."""
        return max(getattr(part, "bytes_per_pixel", 0) for part in (*self.stages, self.energy))

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Run the stages where the energy of the 8-bit image reaches the threshold."""
        with torch.no_grad():
            chosen = self.energy(to_signed(to_uint8(images))) >= self.threshold
        if not bool(chosen.any()):
            return images
        x, its_noise = images[chosen], noise.for_samples(chosen)
        for index, stage in enumerate(self.stages):
            x = stage(x, its_noise.within(index))
        result = images.clone()
        result[chosen] = x
        return result


@dataclass(frozen=True)
class DespeckleStage:
    """Replace single pixels that stand out from those around them, which weak diffusion leaves as they are.

    Args:
        threshold: difference to all but one neighbor, in units of 1/255, beyond which a pixel stands out.
    """

    threshold: int
    reach: ClassVar[int] = 1

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Replace them by medians; draws no noise."""
        # Half a unit more, so that rounding decides nothing.
        return despeckle(images, (self.threshold + 0.5) / 127.5)


@dataclass(frozen=True)
class JPEGStage:
    """JPEG compression, the baseline every purifier is measured against.

    Args:
        quality: 1 to 100.
    """

    quality: int
    reach: ClassVar[int] = REACH_MULTIPLE
    """The next block: the colors are enlarged with a filter."""

    def __call__(self, images: Tensor, noise: KeyedNoise) -> Tensor:
        """Compress and decompress every image; draws no noise."""
        return to_signed(jpeg(to_uint8(images), self.quality))

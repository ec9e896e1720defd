"""Settings of the training of the generators, as frozen data with the published defaults, and presets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from puregen_transforms.models.config import DenoiserConfig, EBMConfig, UNetConfig
from puregen_transforms.models.unet import DEFAULT_SCHEDULE

_DIFFUSION_STEPS: int = DEFAULT_SCHEDULE["num_train_timesteps"]

Preset = Literal["paper", "cpu"]


@dataclass(frozen=True, kw_only=True)
class EBMTraining:
    """Settings of one training run; the defaults are the published ones, on one small device.

    Args:
        updates: optimizer steps.
        batch_size: positive, and as many negative, images in an update, over all processes
            (published: 16 a device x 8).
        langevin_steps: length of the chains of an update, in Langevin steps.
        step_size: size of a Langevin step, in image units.
        temperature: divides the energy in the chains and the loss.
        data_noise: standard deviation added to real images, in image units.
        bank_size: persistent chains (published: 1,250 a device x 8), started from noisy data.
        rejuvenation: share of the drawn chains that restart from data at each update. With as few as the published
            0.05, little keeps the energy level along the short chains of purification, which start from data: colors
            may drift. A short run on trained weights with 1 settles that.
        learning_rate: learning rate of Adam.
        milestones: shares of `updates` after which the rate falls.
        rate_factors: factor on the rate from each milestone on (published: x0.1 at 1/3, 5/8, 5/6).
        ema_decay: decay of the weight average that becomes the result; 0, as published, keeps none.
        seed: decides the initial weights, data order, noise and bank.
    """

    updates: int = 150_000
    batch_size: int = 16
    langevin_steps: int = 100
    step_size: float = 1.25e-2
    temperature: float = 1e-4
    data_noise: float = 1.5e-2
    bank_size: int = 10_000
    rejuvenation: float = 0.05
    learning_rate: float = 1e-4
    milestones: tuple[float, ...] = (1 / 3, 5 / 8, 5 / 6)
    rate_factors: tuple[float, ...] = (0.1, 0.01, 0.001)
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            self,
            counts=("updates", "batch_size", "langevin_steps", "bank_size"),
            positive=("step_size", "temperature", "learning_rate"),
        )
        if self.bank_size < self.batch_size:
            raise ValueError(
                f"Expected `bank_size` to be at least `batch_size`, but got {self.bank_size} < {self.batch_size}."
            )
        if not 0 <= self.rejuvenation <= 1:
            raise ValueError(f"Expected `rejuvenation` in [0, 1], but got {self.rejuvenation}.")
        if len(self.milestones) != len(self.rate_factors) or sorted(self.milestones) != list(self.milestones):
            raise ValueError("Expected `milestones` in rising order, each with one of `rate_factors`.")

    def rate(self, update: int) -> float:
        """Compute the learning rate of an update."""
        passed = [
            factor
            for milestone, factor in zip(self.milestones, self.rate_factors, strict=True)
            if update >= milestone * self.updates
        ]
        return self.learning_rate * (passed[-1] if passed else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EBMTraining:
        """Rebuild from `to_dict`; a key that no field has is an error."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


@dataclass(frozen=True, kw_only=True)
class DDPMTraining:
    """Settings of one training run; the defaults are the published ones (150 epochs of 70,000 images).

    Args:
        updates: optimizer steps.
        batch_size: images in an update, over all processes (published: 32 a device x 8).
        trained_steps: how many diffusion steps are trained, the first of the schedule's 1000: restoration, not
            generation.
        learning_rate: highest learning rate of AdamW.
        warmup: updates over which the rate rises; then it falls to 0 along a cosine.
        largest_gradient: norm at which the gradient is clipped.
        ema_decay: decay of the weight average that becomes the result; 0 keeps none.
        sparse: share of the images that is learned, of each class where there are labels; ECLIPSE (Wang et al. 2024)
            takes 0.04, clean ones. None learns all.
        copies: further copies of each image; ECLIPSE takes 4. As each update draws with replacement, they change
            which images are drawn, but not how often each is.
        seed: decides the initial weights, data order and noise, and which images a sparse set has.
    """

    updates: int = 41_000
    batch_size: int = 256
    trained_steps: int = 250
    learning_rate: float = 1e-4
    warmup: int = 500
    largest_gradient: float = 1.0
    ema_decay: float = 0.999
    sparse: float | None = None
    copies: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            self,
            counts=("updates", "batch_size", "trained_steps"),
            positive=("learning_rate", "largest_gradient"),
            not_negative=("warmup", "copies"),
        )
        if self.trained_steps > _DIFFUSION_STEPS:
            raise ValueError(f"Expected `trained_steps` up to {_DIFFUSION_STEPS}, but got {self.trained_steps}.")
        if self.sparse is not None and not 0 < self.sparse <= 1:
            raise ValueError(f"Expected `sparse` above 0 and up to 1, but got {self.sparse}.")

    def rate(self, update: int) -> float:
        """Compute the learning rate of an update."""
        return _along_a_cosine(self.learning_rate, update, self.warmup, self.updates)

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DDPMTraining:
        """Rebuild from `to_dict`; a key that no field has is an error."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class DenoiserTraining:
    """Settings of one training run of a denoiser.

    Args:
        updates: optimizer steps.
        batch_size: patches in an update, over all processes; of smaller patches as many more as have the same pixels.
        patch_size: side of the patches in pixels.
        lowest_noise: lowest standard deviation of the noise, in units of 1/255.
        highest_noise: highest standard deviation of the noise, in units of 1/255.
        learning_rate: highest learning rate of AdamW.
        warmup: updates over which the rate rises; then it falls to 0 along a cosine.
        largest_gradient: norm at which the gradient is clipped.
        ema_decay: decay of the weight average that becomes the result; 0 keeps none.
        seed: decides the initial weights, data order and noise.
    """

    updates: int = 200_000
    batch_size: int = 32
    patch_size: int = 128
    lowest_noise: float = 2.0
    highest_noise: float = 80.0
    learning_rate: float = 5e-4
    warmup: int = 500
    largest_gradient: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        _check(
            self,
            counts=("updates", "batch_size", "patch_size"),
            positive=("lowest_noise", "learning_rate", "largest_gradient"),
            not_negative=("warmup",),
        )
        if not self.lowest_noise <= self.highest_noise:
            raise ValueError(
                f"Expected `highest_noise` of at least {self.lowest_noise:g}, but got {self.highest_noise:g}."
            )

    def rate(self, update: int) -> float:
        """Compute the learning rate of an update."""
        return _along_a_cosine(self.learning_rate, update, self.warmup, self.updates)

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, JSON-ready."""
        return asdict(self)


def _check(
    settings: EBMTraining | DDPMTraining | DenoiserTraining,
    *,
    counts: Sequence[str],
    positive: Sequence[str],
    not_negative: Sequence[str] = (),
) -> None:
    """Check the settings of these names, and the decay of the average, which all trainings have.

    Raises:
        ValueError: one out of range.
    """
    for name in counts:
        if getattr(settings, name) < 1:
            raise ValueError(f"Expected `{name}` to be 1 or more, but got {getattr(settings, name)}.")
    for name in positive:
        if not getattr(settings, name) > 0:
            raise ValueError(f"Expected `{name}` to be above 0, but got {getattr(settings, name)}.")
    for name in not_negative:
        if getattr(settings, name) < 0:
            raise ValueError(f"Expected `{name}` of 0 or more, but got {getattr(settings, name)}.")
    if not 0 <= settings.ema_decay < 1:
        raise ValueError(f"Expected `ema_decay` in [0, 1), but got {settings.ema_decay}.")


def _along_a_cosine(highest: float, update: int, warmup: int, updates: int) -> float:
    """Compute a learning rate that rises evenly to the highest, and falls to 0 along a cosine."""
    if update < warmup:
        return highest * (update + 1) / warmup
    return highest * 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))


EBM_PRESETS: Mapping[Preset, tuple[EBMConfig, EBMTraining]] = {
    "paper": (EBMConfig(), EBMTraining()),
    "cpu": (
        EBMConfig(nf=64),
        EBMTraining(
            updates=6000,
            batch_size=32,
            langevin_steps=40,
            bank_size=4000,
            milestones=(0.5, 0.8),
            rate_factors=(0.3, 0.1),
        ),
    ),
}
"""Settings as published, and as the packaged ebm-imagenet32-nf64 was trained, in 1.5 hours on 2 CPU cores.

The default checkpoint, ebm-imagenet32-nf64-v2, went on from that one for two minutes; its card has the command.
"""

DDPM_PRESETS: Mapping[Preset, tuple[UNetConfig, DDPMTraining]] = {
    "paper": (UNetConfig(), DDPMTraining()),
    "cpu": (
        UNetConfig(widths=(32, 64, 128, 128), attention=(), groups=8),
        DDPMTraining(updates=5000, batch_size=64, learning_rate=1e-3, warmup=300),
    ),
}
"""Settings as published, and as the packaged ddpm-imagenet32-32-128 was trained, in 1.5 hours on 2 CPU cores."""

DENOISER_PRESETS: Mapping[Preset, tuple[DenoiserConfig, DenoiserTraining]] = {
    "paper": (DenoiserConfig(widths=(64, 128, 256, 512), blocks=4), DenoiserTraining()),
    "cpu": (
        DenoiserConfig(),
        DenoiserTraining(updates=16_000, batch_size=16, patch_size=64, learning_rate=1e-3, warmup=300),
    ),
}
"""As large as DRUNet (Zhang et al. 2021), for a GPU, and as the packaged denoiser-photographs-48-128 was trained."""

"""The noise predictor of PureGen-DDPM: diffusers' unconditional UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from puregen_transforms.models.config import UNetConfig

if TYPE_CHECKING:
    from diffusers import UNet2DModel

DEFAULT_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
"""The values that decide the betas, as diffusers has them where a configuration does not say."""

MOST_TIMESTEPS = 2**16

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")


def build_unet(config: UNetConfig) -> UNet2DModel:
    """Build a `UNet2DModel` with fresh weights, drawn from torch's global generator."""
    from diffusers import UNet2DModel  # seconds to import

    return UNet2DModel(**config.to_diffusers())


def check_schedule(schedule: Mapping[str, Any], place: str) -> None:
    """Check the values that decide the betas.

    Args:
        schedule: with exactly the keys of `DEFAULT_SCHEDULE`.
        place: where it comes from, for the error.

    Raises:
        ValueError: a value that cannot be.
    """
    betas = schedule["trained_betas"]
    sound = {
        "num_train_timesteps": _is_count(schedule["num_train_timesteps"])
        and schedule["num_train_timesteps"] <= MOST_TIMESTEPS,
        "beta_start": _is_beta(schedule["beta_start"]),
        "beta_end": _is_beta(schedule["beta_end"]),
        "beta_schedule": schedule["beta_schedule"] in BETA_SCHEDULES,
        "trained_betas": betas is None
        or (isinstance(betas, list) and len(betas) == schedule["num_train_timesteps"] and all(map(_is_beta, betas))),
        "rescale_betas_zero_snr": isinstance(schedule["rescale_betas_zero_snr"], bool),
    }
    wrong = [f"{name} {str(schedule[name])[:80]}" for name, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(
            f"Expected a noise schedule in {place} (betas between 0 and 1, one for each of at most "
            f"{MOST_TIMESTEPS} time steps; beta_schedule one of {', '.join(BETA_SCHEDULES)}), but got "
            f"{'; '.join(wrong)}."
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_beta(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1

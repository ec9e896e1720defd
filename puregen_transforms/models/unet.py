"""The noise predictor of PureGen-DDPM: diffusers' unconditional UNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a `UNet2DModel`; the defaults are the paper's network for 32 px.

    Args:
        widths: channels of each resolution, from the finest; the side halves from one to the next.
        layers: residual blocks at each resolution.
        attention: resolutions with self-attention, counted from 1 at the finest.
        groups: of the group normalisation; divides every width.
        image_size: side in pixels of the training images.
    """

    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    layers: int = 2
    attention: tuple[int, ...] = (5,)
    groups: int = 32
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "groups", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected UNet `{name}` of 1 or more, but got {getattr(self, name)}.")
        if not self.widths or any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(
                f"Expected UNet `widths` that `groups` ({self.groups}) divides, but got {list(self.widths)}."
            )
        if any(not 1 <= level <= len(self.widths) for level in self.attention):
            raise ValueError(
                f"Expected UNet `attention` at resolutions 1 to {len(self.widths)}, but got {list(self.attention)}."
            )

    def to_diffusers(self) -> dict[str, Any]:
        """Arguments of `UNet2DModel`, as its `config.json` has them."""
        attended = [level + 1 in self.attention for level in range(len(self.widths))]
        return {
            "sample_size": self.image_size,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": list(self.widths),
            "layers_per_block": self.layers,
            "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attended],
            "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
            "norm_num_groups": self.groups,
        }


def build_unet(config: UNetConfig) -> UNet2DModel:
    """A `UNet2DModel` with fresh weights, drawn from torch's global generator."""
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
        "num_train_timesteps": _is_count(schedule["num_train_timesteps"]),
        "beta_start": _is_beta(schedule["beta_start"]),
        "beta_end": _is_beta(schedule["beta_end"]),
        "beta_schedule": schedule["beta_schedule"] in BETA_SCHEDULES,
        "trained_betas": betas is None or (isinstance(betas, list) and bool(betas) and all(map(_is_beta, betas))),
        "rescale_betas_zero_snr": isinstance(schedule["rescale_betas_zero_snr"], bool),
    }
    wrong = [f"{name} {str(schedule[name])[:80]}" for name, is_sound in sound.items() if not is_sound]
    if wrong:
        raise ValueError(
            f"Expected a noise schedule in {place} (betas between 0 and 1; beta_schedule one of "
            f"{', '.join(BETA_SCHEDULES)}), but got {'; '.join(wrong)}."
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_beta(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1

"""Shapes of the networks, as frozen data with the paper's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LARGEST = 2**14
"""Channels, or pixels of a side: a larger one would be an error, or would turn purification off."""


@dataclass(frozen=True, kw_only=True)
class EBMConfig:
    """Shape of an `EBM`.

    Args:
        nf: channels of every hidden layer; the paper's network has 128.
        patch_size: factor by which images are pixel-unshuffled in front of the network; 1 leaves them as they are.
        image_size: side in pixels of the training images. The energy is a mean over space, so purifying another size
            needs this to rescale the drift.
    """

    nf: int = 128
    patch_size: int = 1
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("nf", "patch_size", "image_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
                raise ValueError(
                    f"Expected EBM config `{name}` to be a positive integer up to {LARGEST}, but got {value!r}."
                )

    @property
    def smallest_image(self) -> int:
        """The shortest side, in pixels, that survives the two 2x2 poolings."""
        return 4 * self.patch_size

    def to_dict(self) -> dict[str, int]:
        """Return the keys of the official `config.json`, plus `image_size`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EBMConfig:
        """Rebuild from `to_dict`; a key that no field has is an error."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"Expected EBM config keys {sorted(cls.__dataclass_fields__)}, but got {unknown} too.")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a `UNet2DModel`; the defaults are the paper's network for 32 px.

    Args:
        widths: channels of each resolution, from the finest; the side halves from one to the next.
        layers: residual blocks at each resolution.
        attention: resolutions with self-attention, counted from 1 at the finest.
        groups: groups of the group normalization; divides every width.
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
        """Return the arguments of `UNet2DModel`, as its `config.json` has them."""
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


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Shape of a `Denoiser`.

    Args:
        widths: channels at a half, a quarter and an eighth of the image's side, and so on.
        blocks: residual blocks at each of them, on the way down and again on the way up.
    """

    widths: tuple[int, ...] = (48, 96, 128)
    blocks: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        values = (*self.widths, self.blocks)
        sound = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if not self.widths or not sound or not all(1 <= value <= LARGEST for value in values):
            raise ValueError(
                f"Expected denoiser `widths` and `blocks` to be positive integers up to {LARGEST}, but got "
                f"{list(self.widths)} and {self.blocks!r}."
            )

    @property
    def side_multiple(self) -> int:
        """What height and width must be multiples of; other images are padded."""
        return int(2 ** len(self.widths))

    def to_dict(self) -> dict[str, Any]:
        """Return the shape, JSON-ready."""
        return {"widths": list(self.widths), "blocks": self.blocks}

"""Check the configuration of a noise predictor before diffusers, which checks nothing, builds a network of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from puregen_transforms._text import shown
from puregen_transforms.hub.layout import Shape

_LARGEST_SIDE = 2**16


def check_unet_config(config: Mapping[str, Any], shapes: Mapping[str, Shape], path: Path) -> None:
    """Hold a configuration of a `UNet2DModel` against the kinds of its values, and against the weights.

    Args:
        config: as read; keys that are not known are diffusers' affair.
        shapes: of the tensors in the weights.
        path: of the configuration, for the error.

    Raises:
        ValueError: a value of another kind, or a network with more layers or channels than there are weights.
    """
    wrong = [
        f"{name} {shown(repr(config[name]))[:80]}"
        for name, is_right in _KINDS.items()
        if name in config and not is_right(config[name])
    ]
    if wrong:
        raise ValueError(f"Expected the configuration of a UNet2DModel in {path}, but got {'; '.join(wrong)}.")
    widths = config.get("block_out_channels", ())
    layers = config.get("layers_per_block", 1)
    most = max((side for shape in shapes.values() for side in shape), default=0)
    if len(widths) * layers > len(shapes) or any(width > most for width in widths):
        raise ValueError(
            f"Expected a network of the {len(shapes)} weights beside it in {path}, but it has {len(widths)} blocks of "
            f"{layers} layers, with up to {max(widths)} channels. Use the configuration that belongs to the weights."
        )


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_side(value: object) -> bool:
    return _is_count(value) and isinstance(value, int) and value <= _LARGEST_SIDE


def _or_none(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or kind(value)


def _list_of(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(kind, value))


_KINDS: Mapping[str, Callable[[object], bool]] = {
    "sample_size": lambda value: value is None or _is_side(value) or _list_of(_is_side)(value),
    "in_channels": _is_count,
    "out_channels": _is_count,
    "center_input_sample": _is_flag,
    "time_embedding_type": _is_text,
    "time_embedding_dim": _or_none(_is_count),
    "freq_shift": _is_number,
    "flip_sin_to_cos": _is_flag,
    "down_block_types": _list_of(_is_text),
    "mid_block_type": _or_none(_is_text),
    "up_block_types": _list_of(_is_text),
    "block_out_channels": _list_of(_is_count),
    "layers_per_block": _is_count,
    "mid_block_scale_factor": lambda value: _is_number(value) and value != 0,
    "downsample_padding": lambda value: value in (0, 1) and not isinstance(value, (bool, float)),
    "downsample_type": _is_text,
    "upsample_type": _is_text,
    "dropout": _is_number,
    "act_fn": _is_text,
    "attention_head_dim": _or_none(_is_count),
    "norm_num_groups": _is_count,
    "attn_norm_num_groups": _or_none(_is_count),
    "norm_eps": lambda value: isinstance(value, (int, float)) and _is_number(value) and value > 0,
    "resnet_time_scale_shift": _is_text,
    "add_attention": _is_flag,
    "num_train_timesteps": _or_none(_is_count),
}

"""The official layout of a checkpoint: `config.json` beside `model.safetensors`."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from puregen_transforms.models.ebm import EBMConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

Shape = tuple[int, ...]


def missing_file_error(place: str, names: Iterable[str]) -> FileNotFoundError | ValueError:
    """The error for a place that lacks `config.json` or `model.safetensors`.

    Args:
        place: described for the user, such as "folder runs/a".
        names: the files found there.
    """
    found = sorted(names)
    pickles = [name for name in found if name.endswith(PICKLE_SUFFIXES)]
    if WEIGHTS_FILE not in found and pickles:
        return ValueError(
            f"Expected {WEIGHTS_FILE} in {place}, but found only pickle files ({', '.join(pickles)}). A pickle can run "
            "any code when it is opened, so only safetensors is loaded. If you trust the file, convert it once: "
            f'safetensors.torch.save_file(torch.load("{pickles[0]}", weights_only=True), "{WEIGHTS_FILE}").'
        )
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if name not in found]
    remedy = (
        f'Write {CONFIG_FILE} with the shape of the network, such as {{"nf": 128, "patch_size": 1}}.'
        if missing == [CONFIG_FILE]
        else "Check that this is the place of a PureGen checkpoint."
    )
    return FileNotFoundError(
        f"Expected {CONFIG_FILE} and {WEIGHTS_FILE} in {place}, but {' and '.join(missing)} "
        f"{'are' if len(missing) > 1 else 'is'} missing; found: {', '.join(found) or 'nothing'}. {remedy}"
    )


def damaged_file_error(weights: Path, reason: object) -> ValueError:
    """The error for a `model.safetensors` that cannot be read."""
    # In the Hub cache `weights` is a link: deleting only the link would bring the same damaged blob back.
    return ValueError(
        f"Expected a whole safetensors file, but {weights} is truncated or damaged ({reason}). Delete "
        f"{weights.resolve()} and load again to download it afresh, or copy it again if it is your own file. "
        "If that gives the same error, the published file itself is damaged."
    )


def read_shapes(weights: Path) -> dict[str, Shape]:
    """Shapes of all tensors in a safetensors file, read from its header.

    Raises:
        ValueError: the file is truncated or is not safetensors.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged_file_error(weights, error) from error


def read_config(path: Path, shapes: Mapping[str, Shape]) -> EBMConfig:
    """Read `config.json` and hold it against the weights.

    Keys that `EBMConfig` does not have give one warning; a missing `nf` or `patch_size` is taken
    from the weights.

    Args:
        path: of `config.json`.
        shapes: of the tensors in the weights beside it.

    Raises:
        ValueError: not a JSON object, an impossible value, or one that contradicts the weights.
    """
    values = _read_object(path)
    unknown = sorted(set(values) - set(EBMConfig.__dataclass_fields__))
    if unknown:
        warnings.warn(f"Ignored unknown keys in {path}: {', '.join(unknown)}.", UserWarning, stacklevel=4)
    known = {name: value for name, value in values.items() if name not in unknown}
    measured = _measure(shapes)
    wrong = [
        f"{name} is {known[name]!r}, but the weights have {value}"
        for name, value in measured.items()
        if known.get(name, value) != value
    ]
    if wrong:
        raise ValueError(
            f"Expected {path} to describe the weights beside it, but {'; '.join(wrong)}. "
            "Correct the configuration, or use the weights that belong to it."
        )
    unmeasured = [name for name in ("nf", "patch_size") if name not in known and name not in measured]
    if unmeasured:
        raise ValueError(
            f"Expected {' and '.join(unmeasured)} in {path} or a weight `block1.c1.weight` that tells, but got none. "
            "Check that this is a PureGen EBM checkpoint."
        )
    try:
        return EBMConfig(**{**measured, **known})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected a JSON object in {path}, but it is not valid JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object in {path}, but got {type(values).__name__}.")
    return values


def _measure(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """What the first convolution says about the network; nothing if it is not one of ours."""
    shape = shapes.get("block1.c1.weight", ())
    if len(shape) != 4 or shape[0] == 0:
        return {}
    patch_size = math.isqrt(shape[1] // 3)
    if patch_size == 0 or shape[1] != 3 * patch_size**2:
        return {}
    return {"nf": shape[0], "patch_size": patch_size}

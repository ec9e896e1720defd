"""Load triggers and poisons in the formats that others publish them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puregen_transforms._files import is_regular
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.pickles import read_pickle
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.stored_images import to_tensor
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet


def load_narcissus_trigger(path: str | Path, *, scale: float = 1.0) -> Added:
    """Load a trigger as the Narcissus release saves it: a .npy of (1, 3, H, W) in the units of inputs in [-1, 1].

    Args:
        path: of the file.
        scale: magnification at test time.

    Raises:
        OSError: it cannot be read.
        ValueError: another shape, values that are no perturbation, or a file of anything but numbers.
    """
    values = torch.from_numpy(_read_array(Path(path))).float().squeeze()
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"Expected a trigger of (1, 3, H, W) in {path}, but got {tuple(values.shape)}.")
    if not bool(values.isfinite().all()) or values.abs().max() > 2:
        raise ValueError(f"Expected values within [-2, 2] in {path}, in the units of inputs in [-1, 1].")
    return Added(values * 127.5, scale)


def load_poisoning_benchmark(folder: str | Path, dataset: ImageSet) -> Poison:
    """Load a setup of the poisoning benchmark (Schwarzschild et al. 2021).

    Reads `poisons.pickle`, `base_indices.pickle` and `target.pickle` for images, numbers and arrays, and nothing else;
    see `puregen_transforms/attacks/pickles.py`.

    Args:
        folder: with the three files.
        dataset: the training set whose rows `base_indices` are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files that hold something else, or rows of another set.
    """
    poisons, rows, target = (
        read_pickle(Path(folder) / f"{name}.pickle") for name in ("poisons", "base_indices", "target")
    )
    try:
        numbers = [int(row) for row in rows]
        images = torch.stack([_image(item[0]) for item in poisons])
        labels = torch.tensor([int(item[1]) for item in poisons])
        target_image, true_label = _image(target[0]), int(target[1])
    except (TypeError, IndexError, KeyError, RuntimeError, ValueError, OverflowError) as error:
        raise ValueError(f"Expected (image, label) pairs and rows in {folder}, but got: {error}") from error
    if len(numbers) != len(images) or len(set(numbers)) != len(numbers) or not set(numbers) <= {*range(len(dataset))}:
        raise ValueError(f"Expected a row of the set's {len(dataset)} for each of {len(images)} poisons in {folder}.")
    ids = torch.tensor(numbers)
    if images.shape[1:] != dataset.images.shape[1:]:
        raise ValueError(f"Expected poisons of {tuple(dataset.images.shape[1:])}, but got {tuple(images.shape[1:])}.")
    crafted = Crafted(
        ids=ids,
        images=images,
        labels=labels,
        target_images=target_image[None],
        target_labels=torch.tensor([true_label]),
        budget=float((images.int() - dataset.images[ids].int()).abs().max()),
    )
    config = AttackConfig(target_class=int(labels.mode().values), rate=len(ids) / len(dataset))
    return crafted.to_poison("poisoning_benchmark", dataset, config, seed=0)


def _image(value: Any) -> Tensor:
    """Convert a PIL image, or a float array of (3, H, W) in [0, 1], as both are found in the published files."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise ValueError("an image whose values are not in [0, 1]")
        return torch.from_numpy(value).mul(255).round().clamp(0, 255).to(torch.uint8)
    return to_tensor(value)


def _read_array(path: Path) -> np.ndarray[Any, Any]:
    if path.exists() and not is_regular(path):
        raise ValueError(f"Expected a .npy file, but {path} is no file.")
    try:
        values = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # on a damaged header numpy raises what it likes
        raise ValueError(f"Expected numbers in {path}, but it cannot be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or not values.size:
        raise ValueError(f"Expected floating-point numbers of (1, 3, H, W) in {path}, but got something else.")
    return values

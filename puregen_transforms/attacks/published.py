"""Load triggers and poisons in the formats that others publish them in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.stored_images import to_tensor
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet

_SAFE = {
    ("PIL.Image", "Image"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}
"""What a pickle of images, numbers and arrays needs; nothing of it can run a command."""


def load_narcissus_trigger(path: str | Path, *, scale: float = 1.0) -> Added:
    """Load a trigger as the Narcissus release saves it: a .npy of (1, 3, H, W) in the units of inputs in [-1, 1].

    Args:
        path: of the file.
        scale: magnification at test time.

    Raises:
        ValueError: another shape, values that are no perturbation, or a file with pickled objects, which is not read.
    """
    values = torch.from_numpy(np.load(path, allow_pickle=False)).float().squeeze()
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"Expected a trigger of (1, 3, H, W) in {path}, but got {tuple(values.shape)}.")
    if not bool(values.isfinite().all()) or values.abs().max() > 2:
        raise ValueError(f"Expected values within [-2, 2] in {path}, in the units of inputs in [-1, 1].")
    return Added(values * 127.5, scale)


def load_poisoning_benchmark(folder: str | Path, dataset: ImageSet) -> Poison:
    """Load a setup of the poisoning benchmark (Schwarzschild et al. 2021).

    Reads `poisons.pickle`, `base_indices.pickle` and `target.pickle` with an unpickler that knows images, numbers and
    arrays and nothing else.

    Args:
        folder: with the three files.
        dataset: the training set whose rows `base_indices` are.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files that hold something else, or rows of another set.
    """
    poisons, rows, target = (
        _unpickle(Path(folder) / f"{name}.pickle") for name in ("poisons", "base_indices", "target")
    )
    try:
        ids = torch.tensor([int(row) for row in rows])
        images = torch.stack([_image(item[0]) for item in poisons])
        labels = torch.tensor([int(item[1]) for item in poisons])
        target_image, true_label = _image(target[0]), int(target[1])
    except (TypeError, IndexError) as error:
        raise ValueError(f"Expected (image, label) pairs and rows in {folder}, but got: {error}") from error
    if len(ids) != len(images) or len(ids.unique()) != len(ids) or int(ids.max()) >= len(dataset):
        raise ValueError(f"Expected a row of the set's {len(dataset)} for each of {len(images)} poisons in {folder}.")
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
        return torch.from_numpy(value).mul(255).round().clamp(0, 255).to(torch.uint8)
    return to_tensor(value)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not an image, a number or an array")
        return super().find_class(module, name)


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError) as error:
        raise ValueError(f"Expected a pickle of images, numbers and arrays, but {path}: {error}.") from error

"""Repair possibly poisoned image data before training on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puregen_transforms.cleaning.whole_sets import CleanedDataset as CleanedDataset
    from puregen_transforms.cleaning.whole_sets import clean_dataset as clean_dataset
    from puregen_transforms.transforms.cache import ImageCache as ImageCache
    from puregen_transforms.transforms.puregen import PureGen as PureGen
    from puregen_transforms.transforms.puregen import PureGen as PureGenTransform
    from puregen_transforms.whole_sets.purify_dataset import purify_dataset as purify_dataset
    from puregen_transforms.whole_sets.torch_sets import PurifiedDataset as PurifiedDataset

__version__ = "0.1.0"

__all__ = [
    "CleanedDataset",
    "ImageCache",
    "PureGen",
    "PureGenTransform",
    "PurifiedDataset",
    "__version__",
    "clean_dataset",
    "purify_dataset",
]

_HOMES = {
    "CleanedDataset": ("cleaning.whole_sets", "CleanedDataset"),
    "clean_dataset": ("cleaning.whole_sets", "clean_dataset"),
    "ImageCache": ("transforms.cache", "ImageCache"),
    "PureGen": ("transforms.puregen", "PureGen"),
    "PureGenTransform": ("transforms.puregen", "PureGen"),
    "PurifiedDataset": ("whole_sets.torch_sets", "PurifiedDataset"),
    "purify_dataset": ("whole_sets.purify_dataset", "purify_dataset"),
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that the package itself imports no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__

"""A labeled image set in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from puregen_transforms.data.sources import image_columns, open_source


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, indices into `class_names`.
        class_names: of every class.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape, count = tuple(self.images.shape), len(self.class_names)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"Expected (N, 3, H, W) uint8 images, but got {shape} of {self.images.dtype}.")
        if len(self.labels) != len(self.images):
            raise ValueError(f"Expected a label for each of {len(self.images)} images, but got {len(self.labels)}.")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < count:
            raise ValueError(f"Expected labels from 0 to {count - 1}, but got up to {int(self.labels.max())}.")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[-2], self.images.shape[-1]

    @classmethod
    def of(cls, source: str, *, split: str = "train", label: str = "label") -> ImageSet:
        """Read a split of a source; see `open_source`. Labels without class names are named by their number.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: no such split or columns, no labels, or images of several sizes.
        """
        splits = open_source(source)
        if split not in splits:
            raise ValueError(f"Expected one of the splits {sorted(splits)} of {source!r}, but got {split!r}.")
        dataset = splits[split]
        columns = image_columns(dataset)
        if len(columns) != 1:
            raise ValueError(f"Expected one image column in {source!r}, but found {columns}.")
        feature = dataset.features.get(label)
        names = getattr(feature, "names", None)
        if names is None and str(getattr(feature, "dtype", "")).startswith(("int", "uint")):
            names = [str(number) for number in range(max(dataset[label], default=-1) + 1)]
        if names is None:
            raise ValueError(
                f"Expected a column {label!r} with the classes in {source!r}, but it has {dataset.column_names}. "
                "In an image folder, put the images of each class into a folder of its name."
            )
        return cls.from_pairs(zip(dataset[columns[0]], dataset[label], strict=True), tuple(names))

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Any, int]], class_names: tuple[str, ...]) -> ImageSet:
        """From PIL images and their labels, such as a torchvision data set without transforms.

        Raises:
            ValueError: images of several sizes.
        """
        images: list[Tensor] = []
        labels: list[int] = []
        for image, label in pairs:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            if images and pixels.shape != images[0].shape:
                raise ValueError(
                    f"Expected images of one size, but got {image.size[0]}x{image.size[1]} pixels after "
                    f"{images[0].shape[2]}x{images[0].shape[1]}. Resize them first."
                )
            images.append(pixels)
            labels.append(int(label))
        if not images:
            raise ValueError("Expected at least one image, but got none.")
        return cls(torch.stack(images), torch.tensor(labels), class_names)

    def class_number(self, name: str | int | None) -> int:
        """The index of a class, by name or as it is.

        Raises:
            ValueError: no such class.
        """
        if isinstance(name, str) and name in self.class_names:
            return self.class_names.index(name)
        number = int(name) if isinstance(name, int) or (name is not None and name.isdecimal()) else -1
        if 0 <= number < len(self.class_names):
            return number
        raise ValueError(
            f"Expected a class out of {', '.join(self.class_names)} (or 0 to {len(self.class_names) - 1}), "
            f"but got {name!r}."
        )

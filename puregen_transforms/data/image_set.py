"""A labeled image set; a large one is in a file that is mapped (`mapped.py`), decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from puregen_transforms.data.cells import Places
from puregen_transforms.data.columns import choose_image_columns
from puregen_transforms.data.encoding import commonest_quality
from puregen_transforms.data.labels import class_indices
from puregen_transforms.data.mapped import copied_rows, stacked_images
from puregen_transforms.data.pictures import Pictures
from puregen_transforms.data.sources import split_of


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one size with their classes.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, indices into `class_names`.
        class_names: of every class.
        jpeg_quality: that most of the images were stored with; None if they were stored another way, or if that is
            not known.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        shape, count = tuple(self.images.shape), len(self.class_names)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"Expected (N, 3, H, W) uint8 images, but got {shape} of {self.images.dtype}.")
        if len(self.labels) != len(self.images):
            raise ValueError(f"Expected a label for each of {len(self.images)} images, but got {len(self.labels)}.")
        outside = ((self.labels < 0) | (self.labels >= count)).nonzero().flatten().tolist()
        if outside:
            found = int(self.labels[outside[0]])
            why = " Leave out images without a label, which -1 stands for." if found == -1 else ""
            raise ValueError(
                f"Expected labels of {count} classes, numbered from 0, but {len(outside)} of {len(self.labels)} are "
                f"none of these, the first of them {found} in row {outside[0]}.{why}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[-2], self.images.shape[-1]

    @classmethod
    def load(
        cls,
        source: str,
        *,
        split: str = "train",
        label: str = "label",
        column: str | None = None,
        size: int | None = None,
        convert: bool = False,
    ) -> ImageSet:
        """Read a split of a source that `open_source` opens.

        Labels are numbers or words. Classes without names are named by their number.

        Args:
            source: a folder of images by class, a Parquet file, a folder of them, a saved data set, or its name.
            split: of the source.
            label: the column of labels.
            column: of images; None takes the only one.
            size: resizes images, the shorter side to so many pixels, and crops their center; None takes them as they
                are.
            convert: read an image of another mode than those that can be purified, or with several frames, as
                torchvision does: its first frame, in RGB; not one of 16 bits.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: no such split or columns, labels that are missing or none, or images that are missing or of
                several sizes.
        """
        dataset = split_of(source, split)
        (column,) = choose_image_columns(dataset.features, column and [column])
        if label not in dataset.column_names:
            raise ValueError(
                f"Expected a column {label!r} with the classes in {source!r}, but it has {dataset.column_names}. "
                "In an image folder, put the images of each class into a folder of its name."
            )
        given = getattr(dataset.features[label], "names", None) or ()
        labels, names = class_indices(dataset[label], given)
        names = names or tuple(str(number) for number in range(int(labels.max()) + 1 if len(labels) else 0))
        pictures = Pictures(dataset, column, size, Places.of_source(source), convert=convert)
        return cls(_stacked(pictures), labels, names, None if size is not None else commonest_quality(pictures))

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Any, Any]], class_names: tuple[str, ...]) -> ImageSet:
        """Build a set from PIL images and their labels, such as a torchvision data set without transforms.

        Raises:
            ValueError: no images, images of several sizes, or labels that are no classes.
        """
        found: list[Any] = []

        def pictures() -> Iterator[Any]:
            for image, label in pairs:
                found.append(label)
                yield image

        images = _stacked(pictures())
        labels, names = class_indices(found, class_names)
        return cls(images, labels, names)

    def subset(self, rows: Tensor) -> ImageSet:
        """Choose rows, given by number (n,) int64 or by mask (N,) bool."""
        labels = self.labels[rows]
        if torch.equal(torch.arange(len(self))[rows], torch.arange(len(self))):
            return self
        return replace(self, images=copied_rows(self.images, torch.arange(len(self))[rows]), labels=labels)

    def with_classes(self, class_names: Sequence[str], *, what: str) -> ImageSet:
        """Give the classes the numbers that they have in another set, which may have more of them.

        Args:
            class_names: of the other set.
            what: this set is, in the words of a user.

        Raises:
            ValueError: a class that the other set has not.
        """
        if unknown := [name for name in self.class_names if name not in class_names]:
            raise ValueError(
                f"Expected a {what} with the classes {', '.join(class_names)} of the data set, but got "
                f"{', '.join(self.class_names)}, of which {unknown[0]} is none."
            )
        numbers = torch.tensor([class_names.index(name) for name in self.class_names], dtype=torch.int64)
        return replace(self, labels=numbers[self.labels], class_names=tuple(class_names))

    def class_number(self, name: str | int | None) -> int:
        """Find the index of a class, by its name or index.

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


def _stacked(pictures: Iterable[Any]) -> Tensor:
    """Put PIL images of one size together: (N, 3, H, W) uint8."""
    images = stacked_images(_pixels(pictures))
    if not len(images):
        raise ValueError("Expected at least one image, but got none.")
    return images


def _pixels(pictures: Iterable[Any]) -> Iterator[Tensor]:
    """Read PIL images of one size: (3, H, W) uint8 each."""
    first: Tensor | None = None
    for row, image in enumerate(pictures):
        if not isinstance(image, PIL.Image.Image):
            raise ValueError(
                f"Expected a PIL image in row {row}, but got {type(image).__name__}. Leave out rows without an image, "
                "and the transforms of a data set."
            )
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        first = pixels if first is None else first
        if pixels.shape != first.shape:
            raise ValueError(
                f"Expected images of one size, but got {image.size[0]}x{image.size[1]} pixels after "
                f"{first.shape[2]}x{first.shape[1]}. Resize them (`size`, --size)."
            )
        yield pixels

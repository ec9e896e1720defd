"""Write a whole poisoned set, so that nothing but pixels and labels tells which of its images are poisoned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from puregen_transforms._files import below
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.stored_images import to_pil
from puregen_transforms.data.atomic import complete_or_absent
from puregen_transforms.data.image_set import ImageSet

if TYPE_CHECKING:
    from datasets import Dataset


def write_parquet(poison: Poison, dataset: ImageSet, rows: Dataset, path: Path, *, image: str, label: str) -> None:
    """Write a poisoned set as one Parquet file, with all columns of its source.

    Every image is stored as PNG with its pixels in the file, poisoned or not.

    Args:
        poison: of the set.
        dataset: the set that was attacked.
        rows: the source of it.
        path: of the file; nothing is there yet.
        image: column of images.
        label: column of classes.
    """
    from datasets import Image

    images, labels = poison.apply_to_tensors(dataset.images, dataset.labels)

    def replace(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        numbers = labels[indices].tolist()
        words = [isinstance(value, str) for value in batch[label]]
        return {
            image: [{"bytes": _png(images[index]), "path": None} for index in indices],
            label: [
                dataset.class_names[number] if word else number for number, word in zip(numbers, words, strict=True)
            ],
        }

    plain = rows.cast_column(image, Image(decode=False))
    stored = plain.map(replace, with_indices=True, batched=True, load_from_cache_file=False)
    with complete_or_absent(path, folder=False) as temporary:
        stored.cast_column(image, Image()).to_parquet(temporary)


def write_folder(poison: Poison, dataset: ImageSet, folder: Path) -> None:
    """Write a poisoned set as a folder of PNG images, one folder for each class; names are numbers of rows.

    Args:
        poison: of the set.
        dataset: the set that was attacked.
        folder: not there yet, or empty.

    Raises:
        ValueError: a class whose name cannot be that of a folder.
    """
    for name in dataset.class_names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(
                f"Expected names of classes that can be folders, but got {name!r}. Write the poisoned set as .parquet."
            )
    images, labels = poison.apply_to_tensors(dataset.images, dataset.labels)
    digits = len(str(len(images)))
    with complete_or_absent(folder, folder=True) as temporary:
        for row, number in enumerate(labels.tolist()):
            place = below(temporary, dataset.class_names[number])
            place.mkdir(exist_ok=True)
            (place / f"{row:0{digits}}.png").write_bytes(_png(images[row]))


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()

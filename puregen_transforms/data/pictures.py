"""Read the images of a column, each checked as `purify` checks it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
from datasets import Dataset, Image

from puregen_transforms._text import shown
from puregen_transforms.data.cells import ANYWHERE, Places, is_empty
from puregen_transforms.data.images import LARGEST_LOOKED_AT, ImageProblemError, decode_input
from puregen_transforms.data.mapped_files import release_files

_CELLS_AT_ONCE = 16
"""Cells that are read at once where all are read, which is faster than one by one."""


class Pictures(Sequence[Any]):
    """The images of a column by row, decoded one at a time; None where there is none.

    Args:
        dataset: one split.
        column: of images.
        size: resizes images, the shorter side to so many pixels, and crops their center; None takes them as they are.
        places: where the rows may name files.
        convert: see `decode`.

    Raises (in reading):
        ValueError: an image that cannot be read, or is of a kind that cannot be purified; says which.
    """

    def __init__(
        self,
        dataset: Dataset,
        column: str,
        size: int | None = None,
        places: Places = ANYWHERE,
        *,
        convert: bool = False,
    ) -> None:
        self._mode = dataset.features[column].mode
        self._rows = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self._column = column
        self._size = size
        self._places = places
        self._convert = convert

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return self._picture(int(row), self._rows[int(row)][self._column])

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _CELLS_AT_ONCE):
            cells = self._rows[start : start + _CELLS_AT_ONCE][self._column]
            yield from (self._picture(start + place, cell) for place, cell in enumerate(cells))

    def _picture(self, row: int, cell: Any) -> Any:
        if is_empty(cell):
            return None
        try:
            data = self._places.read(cell)
            largest = None if self._size is None else LARGEST_LOOKED_AT
            image = decode_input(data, mode=self._mode, largest=largest, convert=self._convert)
        except (OSError, ImageProblemError) as problem:
            where = f"row {row}" + (f", {shown(cell['path'])}" if cell["path"] else "")
            raise ValueError(
                f"Expected images that can be read and purified, but not so {where}: {problem}. Mend or remove it."
            ) from problem
        return image if self._size is None else cropped_to(image, self._size)

    def digest_of(self, row: int) -> str | None:
        """Hash what is stored of a row's image, undecoded: sha256 in hexadecimal; None where there is none.

        Raises:
            ValueError: a file that cannot be read, or that this source may not name.
        """
        cell = self._rows[int(row)][self._column]
        if is_empty(cell):
            return None
        try:
            return hashlib.sha256(self._places.read(cell)).hexdigest()
        except (OSError, ImageProblemError) as problem:
            raise ValueError(f"Expected a file that can be read in row {int(row)}, but not so: {problem}.") from problem

    def name_of(self, row: int) -> str | None:
        """Return the path that is stored with an image, if one is."""
        return (self._rows[row][self._column] or {}).get("path") or None

    def release(self) -> None:
        """Give back the memory of what was read of mapped files, whose pages count as memory until then."""
        release_files({str(Path(one["filename"]).absolute()) for one in self._rows.cache_files})


def cropped_to(picture: Any, size: int) -> Any:
    """Resize a PIL image so that its shorter side has `size` pixels, and crop the center; others stay as they are."""
    if not isinstance(picture, PIL.Image.Image):
        return picture
    shorter = min(picture.size)
    width, height = (max(size, round(side * size / shorter)) for side in picture.size)
    resized = picture.convert("RGB").resize((width, height), PIL.Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return resized.crop((left, top, left + size, top + size))

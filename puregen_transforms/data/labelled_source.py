"""Choose the split, images and classes of a source that are to be searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puregen_transforms._progress import datasets_bars_hidden

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from puregen_transforms.data.cells import Places
    from puregen_transforms.data.pictures import Pictures

_LABEL_NAMES = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True, kw_only=True)
class ChosenSource:
    """The split and columns of a source that are to be searched for poison.

    Args:
        dataset: one split.
        split: its name, if the source has others.
        column: of images.
        columns: of images, all there are.
        folder: of the source, if it is on this machine.
        labels: one for each row, -1 where there is none; None without a column of classes.
        class_names: by label.
        facts: for the report.
        places: where the rows may name files.
        size: in pixels, to which images are resized; None takes them as they are.
        convert: whether images that would be refused for their mode or frames are read in RGB.
        opened: the arguments with which `choose_source` finds the same again; links are followed on demand alone.
    """

    dataset: Dataset
    split: str | None
    column: str
    columns: Sequence[str]
    folder: Path | None
    labels: list[int] | None
    class_names: tuple[str, ...]
    facts: Mapping[str, str]
    places: Places
    size: int | None = None
    convert: bool = False
    opened: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def images(self) -> Pictures:
        """Give the images by row."""
        from puregen_transforms.data.pictures import Pictures

        return Pictures(self.dataset, self.column, self.size, self.places, convert=self.convert)

    @property
    def is_one_of_several(self) -> bool:
        """Whether a purifier has to be told which column it is to purify."""
        return len(self.columns) > 1

    def name_of(self, row: int) -> str | None:
        """Name a row's image: its path in the source, or the name stored with it; None without a name."""
        path = self.images.name_of(row)
        if not path:
            return None
        if self.folder is not None and Path(path).is_relative_to(self.folder):
            return str(Path(path).relative_to(self.folder))
        return Path(path).name


def choose_source(
    source: str,
    split: str | None,
    column: str | None,
    label_column: str | None,
    *,
    size: int | None = None,
    follow_links: bool = False,
    convert: bool = False,
) -> ChosenSource:
    """Open a source and settle on its split, columns, and the size of its images.

    Raises:
        FileNotFoundError: see `open_source`.
        ValueError: a split or column that is not there, or none to choose by default.
    """
    from puregen_transforms.data.cells import Places
    from puregen_transforms.data.local import local_path
    from puregen_transforms.data.sources import open_source

    with datasets_bars_hidden():
        splits = open_source(source, follow_links=follow_links)
    path = local_path(source)
    return choose_columns(
        splits,
        _choose_split(splits, split),
        column,
        label_column,
        source=source,
        folder=path.resolve() if path is not None and path.is_dir() else None,
        places=Places.of_source(source, follow_links=follow_links),
        size=size,
        convert=convert,
    )


def choose_columns(
    splits: Mapping[str, Dataset],
    split: str,
    column: str | None,
    label_column: str | None,
    *,
    places: Places,
    source: str | None = None,
    folder: Path | None = None,
    size: int | None = None,
    convert: bool = False,
) -> ChosenSource:
    """Settle on the columns of a split, and the size of its images; see `ChosenSource`.

    Raises:
        ValueError: a column that is not there, or none to choose by default.
    """
    from puregen_transforms.data.columns import choose_image_columns, image_columns

    dataset = splits[split]
    found = image_columns(dataset.features)
    (column,) = choose_image_columns(dataset.features, column and [column])
    label_column = label_column or _default_label_column(dataset)
    labels, names = (None, ()) if label_column is None else _read_labels(dataset, label_column)
    facts = {"split": split, "columns": ", ".join(filter(None, (column, label_column)))}
    if source is not None:
        facts = {"source": source, **facts}
    if size is not None:
        facts["resized to"] = f"{size}x{size} pixels"
    opened = {"split": split, "column": column, "label_column": label_column, "size": size, "convert": convert}
    return ChosenSource(
        dataset=dataset,
        opened={} if source is None else {"source": _from_anywhere(source), **opened},
        split=split if len(splits) > 1 else None,
        column=column,
        columns=found,
        folder=folder,
        labels=labels,
        class_names=tuple(names),
        facts=facts,
        places=places,
        size=size,
        convert=convert,
    )


def _from_anywhere(source: str) -> str:
    """Name a source so that it is found from other working folders, too."""
    from puregen_transforms.data.local import local_path

    path = local_path(source)
    return source if path is None else str(path.absolute())


def _choose_split(splits: DatasetDict, split: str | None) -> str:
    if split is None:
        if len(splits) == 1:
            return str(next(iter(splits)))
        split = "train"
    if split not in splits:
        raise ValueError(f"Expected one of the splits {sorted(splits)}, but got {split!r}. Name one with --split.")
    return split


def _default_label_column(dataset: Dataset) -> str | None:
    from datasets import ClassLabel

    marked = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    named = [name for name in _LABEL_NAMES if name in (marked or _class_like(dataset))]
    return (named or marked or [None])[0]


def _class_like(dataset: Dataset) -> list[str]:
    """List the columns whose values could be classes."""
    types = {name: str(getattr(feature, "dtype", "")) for name, feature in dataset.features.items()}
    return [
        name for name, dtype in types.items() if dtype.startswith(("int", "uint", "bool", "string", "large_string"))
    ]


def _read_labels(dataset: Dataset, column: str) -> tuple[list[int], Sequence[str]]:
    """Read class indices, -1 where a row has none, and the names of the classes.

    Raises:
        ValueError: no such column, or one that holds no classes.
    """
    from puregen_transforms.data.labels import class_indices

    if column not in _class_like(dataset):
        raise ValueError(
            f"Expected a column of classes (integers or names), one of {_class_like(dataset)}, but got {column!r}."
        )
    values = dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()
    present = [str(value) if isinstance(value, bool) else value for value in values if value is not None]
    indices, names = class_indices(present, getattr(dataset.features[column], "names", None) or ())
    numbers = iter(indices.tolist())
    return [-1 if value is None else next(numbers) for value in values], names

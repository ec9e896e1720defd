"""Describe a split that is to be searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, Image

from puregen_transforms.data.labelled_source import ChosenSource


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The images of a split, with their classes.

    Args:
        images: by row; None stands for a missing one.
        labels: one for each row, -1 where there is none; None without labels.
        class_names: by label.
        facts: for the report.
        name_of: file name of a row's image; None where it has none.
        digest_of: sha256 of a row's image as it is stored; None where that is not known.
        opened: how to open the source again; see `Origin`.
    """

    images: Sequence[Any]
    labels: Sequence[int] | None
    class_names: tuple[str, ...]
    facts: Mapping[str, str]
    name_of: Callable[[int], str | None] = lambda row: None
    digest_of: Callable[[int], str | None] = lambda row: None
    opened: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_chosen(cls, chosen: ChosenSource) -> Subject:
        """Take what was chosen of a source."""
        return cls(
            images=chosen.images,
            labels=chosen.labels,
            class_names=chosen.class_names,
            facts=chosen.facts,
            name_of=chosen.name_of,
            digest_of=chosen.images.digest_of,
            opened=chosen.opened,
        )


def images_by_row(dataset: Dataset, column: str, top: Path) -> list[list[str]]:
    """List the image files of each row of a folder, as paths below it: that of a column, "" without one, then others.

    Args:
        dataset: a split of the folder.
        column: whose image comes first.
        top: the folder.
    """
    others = [name for name, feature in dataset.features.items() if name != column and _holds_images(feature)]
    table = dataset.select_columns([column, *others]).with_format("arrow")[:]
    columns = [[_paths(cell, top) for cell in table.column(name).to_pylist()] for name in (column, *others)]
    return [[*(first or [""]), *(path for one in rest for path in one)] for first, *rest in zip(*columns, strict=True)]


def _holds_images(feature: Any) -> bool:
    return isinstance(feature, Image) or isinstance(getattr(feature, "feature", None), Image)


def _paths(cell: Any, top: Path) -> list[str]:
    if isinstance(cell, list):
        return [path for one in cell for path in _paths(one, top)]
    return [] if cell is None or cell["path"] is None else [Path(cell["path"]).relative_to(top).as_posix()]

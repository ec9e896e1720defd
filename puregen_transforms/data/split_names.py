"""Names of splits, of files and folders that hold them, and of their copies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from puregen_transforms._text import shown

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Splits by the names that files and folders of them have, as `datasets` knows them."""

_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}

Value = TypeVar("Value")


def named_split(name: str) -> str | None:
    """Tell which split a file or folder of this name holds, as "train", "Test" or "val2017"; None for another name."""
    return _SPLIT_OF.get(re.sub(r"[-._ 0-9]*$", "", name).casefold())


def ordered_splits(splits: Mapping[str, Value]) -> dict[str, Value]:
    """Put the usual splits first, in their usual order, as `datasets` does."""
    names = [*(name for name in _WORDS if name in splits), *(name for name in splits if name not in _WORDS)]
    return {name: splits[name] for name in names}


def choose_splits(found: Mapping[str, Value], wanted: Collection[str]) -> dict[str, Value]:
    """Choose splits by their names, in the order found; all where none is named.

    Raises:
        ValueError: a split that is not there.
    """
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"Expected splits out of {sorted(found)}, but got {missing}.")
    return {split: value for split, value in found.items() if not wanted or split in wanted}


def split_name(split: object) -> str:
    """Name the copy of a split: of a slice as "train[:10%]" by the split itself, by "train" where it has no name."""
    found = re.match(r"\w+(\.\w+)*", str(split or ""))
    return found[0] if found else "train"


def check_split_names(splits: Iterable[object], place: object) -> None:
    """Refuse names that would lead out of a folder.

    Args:
        splits: names, as they were found.
        place: where that was, for the error.

    Raises:
        ValueError: a name of anything but letters, digits, dots and underscores.
    """
    if wrong := [split for split in splits if not isinstance(split, str) or split_name(split) != split]:
        raise ValueError(
            f"Expected splits named by letters, digits, dots and underscores in {place}, but got "
            f"{shown(', '.join(map(repr, wrong[:5])))}."
        )

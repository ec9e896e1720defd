"""Names of splits: they become names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable

from puregen_transforms._text import shown


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

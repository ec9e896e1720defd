"""Choose the names of the images of a copy, whose endings say the format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

LONGEST_NAME = 255
"""Bytes of a name, which common file systems allow."""


def choose_target_names(wished: Mapping[str, str], *, taken: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Choose a new path for each image; also return the images that needed a longer one.

    Where the plain name is another file's, also on a disk that does not tell upper from lower case, a longer one is
    chosen.

    Args:
        wished: the plain name of each image, by path: the same, or with another ending.
        taken: paths of other files, and of folders.

    Raises:
        ValueError: the longer name is in use, too, or is too long for a file.
    """
    uses = Counter(name.casefold() for name in (*wished.values(), *taken))
    targets, clashes = {}, []
    for path, wish in wished.items():
        targets[path] = wish
        if wish != path and uses[wish.casefold()] > 1:
            targets[path] = path + PurePosixPath(wish).suffix
            clashes.append(path)
    _check_distinct(targets, taken)
    for path, target in targets.items():
        name = PurePosixPath(target).name
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise ValueError(
                f"Expected names of at most {LONGEST_NAME} bytes, but {path} would become {name!r}. Rename it."
            )
    return targets, clashes


def _check_distinct(targets: Mapping[str, str], taken: Collection[str]) -> None:
    renamed = [target for path, target in targets.items() if target != path]
    uses = Counter(name.casefold() for name in (*targets.values(), *taken))
    for name in renamed:
        if uses[name.casefold()] > 1:
            raise ValueError(
                f"Expected names that stay distinct when images become {PurePosixPath(name).suffix}, but several files "
                f"would become {name!r}; rename one of them."
            )

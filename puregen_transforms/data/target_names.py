"""Choose the names of the images of a copy, whose endings say the format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from puregen_transforms.data.images import IMAGE_SUFFIXES

LONGEST_NAME = 255
"""Bytes of a name, which common file systems allow."""


def choose_target_names(
    paths_to_formats: Mapping[str, str], *, taken: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Choose a new path for each image; also return the images that needed a longer one.

    Where the plain name is another file's, also on a disk that does not tell upper from lower case, a longer one is
    chosen.

    Args:
        paths_to_formats: the format that each image is written in, by path.
        taken: paths of other files, and of folders.

    Raises:
        ValueError: the longer name is in use, too, or is too long for a file.
    """
    wished = {path: _wished_name(path, image_format) for path, image_format in paths_to_formats.items()}
    uses = Counter(name.casefold() for name in (*wished.values(), *taken))
    targets, clashes = {}, []
    for path, wish in wished.items():
        targets[path] = wish
        if wish != path and uses[wish.casefold()] > 1:
            targets[path] = path + ".png"
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
                f"Expected names that stay distinct when lossy images become .png, but several files would "
                f"become {name!r}; rename one of them."
            )


def _wished_name(path: str, image_format: str) -> str:
    """Return the same path where the format fits its suffix, else with the suffix .png."""
    pure = PurePosixPath(path)
    suffix = pure.suffix.lower()
    if image_format != "PNG" or suffix in (".png", ".apng"):
        return path
    return str(pure.with_suffix(".png")) if suffix in IMAGE_SUFFIXES else path + ".png"

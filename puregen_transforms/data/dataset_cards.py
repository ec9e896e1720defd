"""Check the README.md of a folder of data files, whose `configs` say to `datasets` which files are the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from puregen_transforms._files import is_regular
from puregen_transforms._text import shown

_CARDS = ("README.md", ".huggingface.yaml")
_LARGEST = 2**24
"""Bytes of a card: those of the largest data sets have some hundred thousand."""

_MOST_VALUES = 100_000


def check_card(folder: Path) -> None:
    """Refuse a card that names files outside of its folder, or on a server.

    Raises:
        ValueError: says which; or the card cannot be read.
    """
    for name in _CARDS:
        path = folder / name
        if not path.exists():
            continue
        if not is_regular(path) or path.stat().st_size > _LARGEST:
            raise ValueError(f"Expected a text of at most {_LARGEST} bytes, but {path} is none.")
        for pattern in _patterns(path):
            pure = PurePosixPath(pattern)
            if pure.is_absolute() or ".." in pure.parts or "::" in pattern or ":/" in pattern or pattern[:1] == "~":
                raise ValueError(
                    f"Expected {path} to name files below its folder, but it names {shown(pattern)!r}. If you want "
                    "those, name them as the source; else take the `configs` out of that file."
                )


def _patterns(path: Path) -> Iterator[str]:
    """Yield every text below `configs`: names of files and folders among them."""
    from huggingface_hub import DatasetCard

    try:
        text = path.read_text(encoding="utf-8")
        card = DatasetCard(text if path.suffix == ".md" else f"---\n{text}\n---\n")
        found = list(_texts(getattr(card.data, "configs", None), set()))
    except Exception as error:  # the parsers raise what they like
        raise ValueError(f"Expected a dataset card in {path}, but it cannot be read: {error!r}.") from error
    yield from found


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield the texts in nested lists and mappings, each container once: YAML may repeat them without end."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)) and id(value) not in seen:
        seen.add(id(value))
        if len(seen) > _MOST_VALUES:
            raise ValueError(f"it has more than {_MOST_VALUES} values")
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, seen)

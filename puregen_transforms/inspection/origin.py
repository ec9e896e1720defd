"""Where the images of a report came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from puregen_transforms.data.pictures import Pictures


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the images came from.

    Args:
        images: as they were searched; read again to be shown.
        facts: what to say about the source, by name: source, split, columns, command.
        name_of: file name of a row's image, or None where it has none.
        opened: how it was opened, to open it again: source, split, column, label_column, size, convert.
        purify: the command that purifies the set, where it has a source that a command can name.
    """

    images: Sequence[Any] | Tensor
    facts: Mapping[str, str]
    name_of: Callable[[int], str | None] = lambda row: None
    opened: Mapping[str, Any] = field(default_factory=dict)
    purify: str | None = None

    def names(self, count: int) -> list[str | None]:
        """Name the images of so many rows, and let go of what was read for it."""
        found = [self.name_of(row) for row in range(count)]
        if isinstance(self.images, Pictures):
            self.images.release()
        return found

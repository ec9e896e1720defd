"""What purifying a source came to, and how far it has got."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that was left out.

    Args:
        place: where it is: {"file": ...} or {"split": ..., "row": ..., "column": ...}.
        reason: why it could not be repaired.
    """

    place: dict[str, str | int]
    reason: str

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.place.items()) + f": {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of purifying a source.

    Args:
        images: images repaired and written.
        skipped: those left out.
        notes: sentences about names and the like that a user should read.
    """

    images: int
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


class UnreadableImageError(ValueError):
    """An image cannot be repaired, and was not to be skipped."""

    def __init__(self, skipped: Skipped) -> None:
        super().__init__(
            f"Expected images that can be read and repaired, but not so {skipped}. "
            'Mend or remove it, or leave out such images with on-error "skip".'
        )
        self.skipped = skipped


class Ledger:
    """Counts images, collects the ones left out, and raises at the first where that is asked for.

    Args:
        total: images in all.
        skip: leave out the images that have a problem, rather than stopping.
        progress: told after every image.
    """

    def __init__(self, total: int, *, skip: bool, progress: Progress) -> None:
        self.total = total
        self.images = 0
        self.skipped: list[Skipped] = []
        self._done = 0
        self._skip = skip
        self._progress = progress
        progress(0, total)

    def repaired(self) -> None:
        """Count one image that was written."""
        self.images += 1
        self.passed()

    def passed(self, count: int = 1) -> None:
        """Count places where there was nothing to do."""
        self._done += count
        self._progress(self._done, self.total)

    def problem(self, skipped: Skipped) -> None:
        """Note one image that could not be repaired.

        Raises:
            UnreadableImageError: images are not to be skipped.
        """
        if not self._skip:
            raise UnreadableImageError(skipped)
        self.skipped.append(skipped)
        self.passed()

    def outcome(self, notes: tuple[str, ...] = ()) -> Outcome:
        """The result.

        Raises:
            ValueError: not one image was repaired.
        """
        if not self.images and self.skipped:
            raise ValueError(
                f"Expected at least one image that can be repaired, but got none in {len(self.skipped)}; "
                f"the first: {self.skipped[0]}."
            )
        return Outcome(images=self.images, skipped=tuple(self.skipped), notes=notes)


def write_skipped(skipped: tuple[Skipped, ...], path: Path) -> None:
    """Save the list of the images left out as JSON."""
    rows = [{**item.place, "reason": item.reason} for item in skipped]
    # A file name that is no valid Unicode becomes an escape, which JSON can read.
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="backslashreplace")

"""Sum up what was purified and what was left out, and tell the progress."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CopyProgress = Callable[[int, int | None, int], None]
"""Called with (images done, images in all where that is known, images of those done that an earlier run had done)."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that was left out.

    Args:
        place: where it is: {"file": ...} or {"split": ..., "row": ..., "column": ...}.
        reason: why it could not be repaired, or should not be learned.
    """

    place: dict[str, str | int]
    reason: str

    def to_dict(self) -> dict[str, str | int]:
        """Return one flat, JSON-ready row."""
        return {**self.place, "reason": self.reason}

    @classmethod
    def from_dict(cls, row: Mapping[str, str | int]) -> Skipped:
        """Rebuild from `to_dict`."""
        place = dict(row)
        return cls(reason=str(place.pop("reason")), place=place)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.place.items()) + f": {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of purifying a source.

    Args:
        images: images written: repaired, or kept as they were.
        resisting: images that are still suspicious after all that method "adaptive" does.
        skipped: those left out.
        notes: sentences about names and the like that a user should read.
        manifest_sha256: of the lines of the copy's manifest, see `puregen verify --sha256`; empty if it was changed.
    """

    images: int
    resisting: int = 0
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    manifest_sha256: str = ""


class UnreadableImageError(ValueError):
    """An image cannot be repaired, and was not to be skipped."""

    def __init__(self, skipped: Skipped) -> None:
        super().__init__(
            f"Expected images that can be read and repaired, but not so {skipped}. "
            'Mend or remove it, or leave out such images with on-error "skip".'
        )
        self.skipped = skipped


def skipped_as_json(skipped: tuple[Skipped, ...]) -> bytes:
    """Encode the images left out as JSON."""
    rows = [item.to_dict() for item in skipped]
    # A file name that is no valid Unicode becomes an escape, which JSON can read.
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")

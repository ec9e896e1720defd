"""Say what becomes of each image in a copy: purified, kept as it is, or left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puregen_transforms._text import shown

Key = int | str
"""A row of a split by its number; an image of a folder by its path, in the split ""."""

TREATMENT = "treatment"
"""Key of a treatment in the source's record of a manifest."""

FOLDER = ""
"""Stands for the split in a folder of images, where a path names each image."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """The rows of a source to leave out, and those to purify.

    Args:
        left_out: by split and row, why.
        purified: rows to purify, by split; None purifies all that are not left out. Others are kept byte for byte.
    """

    left_out: Mapping[str, Mapping[Key, str]] = field(default_factory=dict)
    purified: Mapping[str, Collection[Key]] | None = None

    def reason(self, split: str, key: Key) -> str | None:
        """Say why a row is left out; None if it is not."""
        return self.left_out.get(split, {}).get(key)

    def purifies(self, split: str, key: Key) -> bool:
        """Tell whether a row that is not left out is purified."""
        return self.purified is None or key in self.purified.get(split, ())

    def leaves_out(self, split: str = FOLDER) -> int:
        """Count the rows of a split that are left out."""
        return len(self.left_out.get(split, ()))

    @property
    def purifies_any(self) -> bool:
        """Whether a purifier is needed."""
        return self.purified is None or any(self.purified.values())

    def described(self) -> dict[str, Any]:
        """Describe it among what decides a copy; all purified goes without saying."""
        return {} if self == ALL_PURIFIED else {TREATMENT: self.to_dict()}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record, in which each reason stands once."""
        left_out: dict[str, dict[str, list[Key]]] = {}
        for split, rows in self.left_out.items():
            for key, reason in rows.items():
                left_out.setdefault(split, {}).setdefault(reason, []).append(key)
        purified = None
        if self.purified is not None:
            purified = {split: _ordered(keys) for split, keys in self.purified.items() if keys}
        return {
            "left out": {
                split: {reason: _ordered(keys) for reason, keys in sorted(reasons.items())}
                for split, reasons in left_out.items()
            },
            "purified": purified,
        }

    @classmethod
    def from_dict(cls, values: Any) -> Treatment:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: values of another kind.
        """
        try:
            left_out = {split: dict(_with_reasons(reasons)) for split, reasons in values["left out"].items()}
            purified = values["purified"]
            if purified is not None:
                purified = {split: frozenset(_keys(keys)) for split, keys in purified.items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"Expected what becomes of each row, but got {shown(repr(values))[:80]}.") from error
        return cls(left_out=left_out, purified=purified)


ALL_PURIFIED = Treatment()

ALL_KEPT = Treatment(purified={})


def _with_reasons(reasons: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    for reason, keys in reasons.items():
        yield from ((key, reason) for key in _keys(keys))


def _ordered(keys: Collection[Key]) -> list[Key]:
    numbers, paths = (key for key in keys if isinstance(key, int)), (key for key in keys if isinstance(key, str))
    return [*sorted(numbers), *sorted(paths)]


def _keys(values: Any) -> list[Key]:
    if not isinstance(values, list) or not all(type(value) in (int, str) for value in values):
        raise TypeError("keys")
    return values

"""Sum up what the searches found in each split, as the manifest of a clean copy records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from puregen_transforms._text import shown
from puregen_transforms.detection.searches import POISON
from puregen_transforms.detection.verdict import (
    CLEAN_ROW,
    DOUBTFUL,
    MADE_UNLEARNABLE,
    NOTHING_FOUND,
    POISONED,
    Verdict,
)

LEVELS = (MADE_UNLEARNABLE, POISONED, DOUBTFUL, NOTHING_FOUND)
"""Levels of a verdict, the worst first."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The result of a whole search of one split.

    Args:
        level: of the verdict.
        headline: of the verdict, in one sentence.
        images: that were searched.
        flagged: images held for poisoned.
        doubtful: other images that somebody should look at.
        mislabeled: yet other images, whose label does not fit.
        found_by: images held for poisoned or doubtful, by the first search that found them.
        not_looked_for: what could still be there, in words.
    """

    level: str
    headline: str
    images: int
    flagged: int
    doubtful: int
    mislabeled: int
    found_by: Mapping[str, int]
    not_looked_for: tuple[str, ...]

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> Findings:
        """Sum up a verdict."""
        places = verdict.found_by[verdict.flagged | verdict.doubtful].tolist()
        names = [one.search.name for one in verdict.made]
        return cls(
            level=verdict.level,
            headline=verdict.headline,
            images=len(verdict),
            flagged=int(verdict.flagged.sum()),
            doubtful=int(verdict.doubtful.sum()),
            mislabeled=int(verdict.mislabeled.sum()),
            found_by={name: places.count(place) for place, name in enumerate(names) if place in places},
            not_looked_for=verdict.not_looked_for,
        )


@dataclass(frozen=True, kw_only=True)
class CleaningReport:
    """The findings in a data set, with the rule and the versions that its clean copy was made by.

    Args:
        splits: findings by split.
        rule: see `Rule`.
        versions: of this package, and of the detectors of the searches that were made.
        page: the report to look at; None if none was written, or it is no longer there.
        notes: what to know about the copy, such as classes without an image.
    """

    splits: Mapping[str, Findings]
    rule: Mapping[str, Any]
    versions: Mapping[str, Any]
    page: Path | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def level(self) -> str:
        """Give the worst level of the splits."""
        return min((one.level for one in self.splits.values()), key=LEVELS.index)

    @property
    def not_looked_for(self) -> tuple[str, ...]:
        """List what could still be there, of all splits, in words."""
        return tuple(dict.fromkeys(line for one in self.splits.values() for line in one.not_looked_for))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record of what decided the copy."""
        verdict = {split: asdict(one) for split, one in self.splits.items()}
        return {"verdict": verdict, "rule": dict(self.rule), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, values: Any, *, page: Path | None = None, notes: tuple[str, ...] = ()) -> CleaningReport:
        """Rebuild from `to_dict`.

        Raises:
            ValueError: values of another kind.
        """
        names = {one.name for one in fields(Findings)}
        try:
            splits = {str(split): dict(one) for split, one in values["verdict"].items()}
            if any(set(one) != names or one["level"] not in LEVELS for one in splits.values()):
                raise ValueError("other findings")
            return cls(
                splits={
                    split: Findings(**{**one, "not_looked_for": tuple(one["not_looked_for"])})
                    for split, one in splits.items()
                },
                rule=dict(values["rule"]),
                versions=dict(values["versions"]),
                page=page,
                notes=notes,
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ValueError(f"Expected what a clean copy was made by, but got {shown(repr(values))[:80]}.") from error


def reasons_of(verdict: Verdict, *, doubtful: bool) -> dict[int, str]:
    """Say of each flagged row why it is.

    Args:
        verdict: of the split.
        doubtful: whether doubtful rows count as flagged.
    """
    chosen = verdict.flagged | verdict.doubtful if doubtful else verdict.flagged
    found = {}
    for row in chosen.nonzero().flatten().tolist():
        place = int(verdict.found_by[row])
        search = None if place == CLEAN_ROW else verdict.made[place].search
        kind = POISON if bool(verdict.flagged[row]) else DOUBTFUL
        found[row] = f"{kind}, a person said" if search is None else f"{kind}, found by {search.name}: {search.finds}"
    return found

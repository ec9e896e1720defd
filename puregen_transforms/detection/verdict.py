"""Put together what several detectors found in a set: a verdict, and what was not looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from puregen_transforms._html import card, listing, paragraph, table
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import DOUBT, MISLABELED, NEVER, POISON, UNLEARNABLE, Search

MADE_UNLEARNABLE, POISONED, DOUBTFUL, NOTHING_FOUND = "made unlearnable", "poisoned", "doubtful", "nothing found"

CLEAN_ROW = -1

EXPLAINS = 0.01
"""Share of a class that must be held for poisoned to explain why its labels look wrong."""

MOST = 2 / 3
"""Share of a flagged part of a class that must carry marks to explain that the part stands out."""

_LITTLE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """A search that was made.

    Args:
        search: which.
        report: what its detector found.
        limit: what it could miss with what it was given, in words; empty if nothing was lacking.
    """

    search: Search
    report: DetectionReport
    limit: str = ""

    @property
    def doubtful(self) -> Tensor:
        """Mark images that it does not hold for poisoned, and that somebody should look at: (N,) bool."""
        return self.report.flagged & (self.search.means == DOUBT)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A search that was not made.

    Args:
        search: which.
        why: in words, with what to do about it.
    """

    search: Search
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a whole search of a set comes to.

    Args:
        made: the searches that were made, in order.
        left_out: those that were not.
        flagged: (N,) bool, images held for poisoned.
        doubtful: (N,) bool, other images that somebody should look at.
        mislabeled: (N,) bool, yet other images, whose label does not fit.
        found_by: (N,) int64, the place in `made` of the first search that flags an image; `CLEAN_ROW` for none.
        ranks: (N,) float32, the highest share of other images that a search for poison finds less suspicious.
    """

    made: tuple[Searched, ...]
    left_out: tuple[LeftOut, ...]
    flagged: Tensor
    doubtful: Tensor
    mislabeled: Tensor
    found_by: Tensor
    ranks: Tensor

    def __len__(self) -> int:
        return len(self.flagged)

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook."""
        rows = [
            (one.search.name, one.search.finds, f"{int((one.report.flagged | one.doubtful).sum()):,}")
            for one in self.made
        ]
        return card(
            self.headline,
            table(("search", "looked for", "images"), rows),
            paragraph("Not looked for, so it could still be there:"),
            listing(self.not_looked_for),
        )

    @property
    def level(self) -> str:
        """Give the verdict out of MADE_UNLEARNABLE, POISONED, DOUBTFUL and NOTHING_FOUND."""
        if any(one.search.means == UNLEARNABLE and bool(one.report.flagged.any()) for one in self.made):
            return MADE_UNLEARNABLE
        if bool(self.flagged.any()):
            return POISONED
        return DOUBTFUL if bool(self.doubtful.any()) else NOTHING_FOUND

    @property
    def scores(self) -> Tensor:
        """Give the suspicion of each image: (N,) float32, above 1 if and only if it is flagged."""
        return above_one(self.ranks, self.flagged)

    @property
    def headline(self) -> str:
        """Say the verdict in one sentence."""
        count, images = len(self), int(self.flagged.sum())
        if self.level == MADE_UNLEARNABLE:
            return f"Made unlearnable: traces that no picture needs give the labels of {count:,} images away."
        if self.level == POISONED:
            return f"Poisoned: {images:,} of {count:,} images should not be learned."
        if self.level == DOUBTFUL:
            doubtful = int(self.doubtful.sum())
            return f"No poison was recognized, but {doubtful:,} of {count:,} images are doubtful: look at them."
        return f"None of {len(self.made)} searches found poison in {count:,} images."

    @property
    def not_looked_for(self) -> tuple[str, ...]:
        """List what could still be there because nothing looked for it, in words."""
        left_out = [f"{one.search.finds}: {one.why}" for one in self.left_out]
        return (*left_out, *(f"{one.search.finds}, {one.limit}" for one in self.made if one.limit), *NEVER)


def conclude(
    made: Sequence[Searched], left_out: Sequence[LeftOut], count: int, *, labels: Tensor | None = None
) -> Verdict:
    """Put reports together. Flags of one search are never added to those of another: each has its own evidence.

    Args:
        made: the searches that were made.
        left_out: those that were not.
        count: images in the set.
        labels: (N,) of the images; None without labels.
    """
    made = _without_explained(_within_marks(made, labels), labels)
    flagged, doubtful, mislabeled = (torch.zeros(count, dtype=torch.bool) for _ in range(3))
    ranks = torch.zeros(count)
    for one in made:
        doubtful |= one.doubtful
        if one.search.means == POISON:
            flagged |= one.report.flagged
        if one.search.means == MISLABELED:
            mislabeled |= one.report.flagged
        elif one.search.means != UNLEARNABLE:  # which tells no image from another
            ranks = torch.maximum(ranks, rank_of(one.report.scores))
    found_by = torch.full((count,), CLEAN_ROW)
    # What is poison is no mere doubt, and a wrong label is the least of all.
    for means in (POISON, DOUBT, MISLABELED):
        for place, one in enumerate(made):
            found = one.doubtful if means == DOUBT else one.report.flagged & (one.search.means == means)
            found_by[found & (found_by == CLEAN_ROW)] = place
    return Verdict(
        made=tuple(made),
        left_out=tuple(left_out),
        flagged=flagged,
        doubtful=doubtful & ~flagged,
        mislabeled=mislabeled & ~flagged & ~doubtful,
        found_by=found_by,
        ranks=ranks,
    )


def _within_marks(made: Sequence[Searched], labels: Tensor | None) -> list[Searched]:
    """Drop flags without a mark, of searches for parts of a class, where marks explain the part.

    A mark has a sharp edge: an image carries it or not. Where a classifier tells apart what is marked, the images that
    it puts on the same side without a mark are clean.
    """
    marks = [one.report.flagged for one in made if one.search.means == POISON and one.report.marks]
    if labels is None or not marks:
        return list(made)
    marked = torch.stack(marks).any(0)
    found = []
    for one in made:
        if one.search.explained_by_marks:
            flagged = one.report.flagged.clone()
            for label in labels[flagged].unique().tolist():
                part = flagged & (labels == label)
                if int((part & marked).sum()) >= MOST * int(part.sum()):
                    flagged &= marked | (labels != label)
            one = replace(one, report=replace(one.report, flagged=flagged))
        found.append(one)
    return found


def _without_explained(made: Sequence[Searched], labels: Tensor | None) -> list[Searched]:
    """Drop flags in classes where poison was found, of searches that this explains.

    Poison that was moved to a class makes its labels look wrong, too; clean images beside it must not pay for that.
    """
    poison = [one.report.flagged for one in made if one.search.means == POISON]
    if labels is None or not poison:
        return list(made)
    flagged = torch.stack(poison).any(0)
    explained = [
        label
        for label in labels[flagged & (labels >= 0)].unique().tolist()
        if float(flagged[labels == label].float().mean()) >= EXPLAINS
    ]
    inside = torch.isin(labels, torch.tensor(explained, dtype=labels.dtype))
    return [
        replace(one, report=replace(one.report, flagged=one.report.flagged & ~inside))
        if one.search.explained_by_poison
        else one
        for one in made
    ]


def above_one(ranks: Tensor, flagged: Tensor) -> Tensor:
    """Lift the ranks (N,) of flagged images above 1, and leave those of others below."""
    return torch.where(flagged, 1 + ranks.clamp(min=_LITTLE), ranks)


def rank_of(scores: Tensor) -> Tensor:
    """Replace scores (N,) by the share of others that are lower: (N,) float32 in 0 ... 1; equal ones get the same."""
    if len(scores) < 2:
        return torch.zeros(len(scores))
    known = scores.nan_to_num(-torch.inf)
    ordered = known.sort().values
    return (torch.searchsorted(ordered, known) / (len(scores) - 1)).float().clamp(max=1 - _LITTLE)

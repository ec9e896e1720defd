"""Describe marks: what many images share beside their pictures, such as a stamp, an overlay or a watermark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

POISON, HARMLESS, UNDECIDED = "poison", "harmless", "undecided"
"""What the labels of the carriers say of a mark; without labels, or with too few carriers, it is undecided."""


@dataclass(frozen=True, kw_only=True)
class LabelEvidence:
    """What labels tell about a mark.

    Args:
        verdict: POISON, HARMLESS or UNDECIDED.
        label: the class that has more of the carriers than chance gives; None if there is none.
        excess: share of the carriers that only this explains.
        chance: of so many in one class without a reason, times the number of classes.
        agreement: how well the carriers' labels fit their pictures: 1 as those of other images do, 0 as at random.
            None where that cannot be told.
        spares_others: whether carriers of classes other than `label` are as harmless as a watermark: their labels fit,
            and they are spread over the classes as all images are. Attackers add such covers, with true labels, to
            hide a trigger; they teach a classifier nothing.
    """

    verdict: str = UNDECIDED
    label: int | None = None
    excess: float = 0.0
    chance: float = 1.0
    agreement: float | None = None
    spares_others: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """Describe one mark.

    Args:
        kind: "stamp", "patch", "pattern", "local pattern" or "stripes".
        rows: (n,) int64 of the images that carry it, increasing.
        picture: (4, h, w) uint8 red, green, blue and opacity: the stamp itself, or the pattern on gray, amplified.
        place: first row and column of the picture in the image.
        ratio: how far it exceeds what chance gives; what that is, the detector says.
        evidence: of the labels.
    """

    kind: str
    rows: Tensor
    picture: Tensor
    place: tuple[int, int]
    ratio: float
    evidence: LabelEvidence = LabelEvidence()

    def __str__(self) -> str:
        return f"{self.kind} on {len(self.rows)} images, {self.evidence.verdict}"

    @property
    def suspicious(self) -> bool:
        """Whether its carriers are held for poisoned: unless their labels speak for them."""
        return self.evidence.verdict != HARMLESS

    def poisoned_rows(self, labels: Tensor | None) -> Tensor:
        """Select the carriers that are held for poisoned: (m,) int64.

        Args:
            labels: (N,) of the set; None without labels.
        """
        if not self.suspicious:
            return self.rows[:0]
        if labels is None or not self.evidence.spares_others:
            return self.rows
        return self.rows[labels[self.rows] == self.evidence.label]


def drawn(template: Tensor) -> Tensor:
    """Draw a template on gray: (3, h, w) red, green and blue, any scale -> (4, h, w) uint8."""
    scaled = 127.5 * (1 + template / template.abs().max().clamp_min(1e-12))
    return torch.cat([scaled.round().to(torch.uint8), torch.full((1, *template.shape[1:]), 255, dtype=torch.uint8)])


def in_rows_of(marks: Sequence[Mark], order: Tensor) -> tuple[Mark, ...]:
    """Name the carriers by their rows in the set, where its images were searched in another order.

    Args:
        marks: with rows of the order.
        order: (N,) rows of the set.
    """
    return tuple(replace(mark, rows=order[mark.rows].sort().values) for mark in marks)


def to_tensors(marks: Sequence[Mark]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Part marks into tensors by name, and JSON-ready descriptions."""
    tensors: dict[str, Tensor] = {}
    for number, mark in enumerate(marks):
        tensors |= {f"marks.{number}.rows": mark.rows, f"marks.{number}.picture": mark.picture}
    about = [
        {"kind": mark.kind, "place": mark.place, "ratio": mark.ratio, "evidence": asdict(mark.evidence)}
        for mark in marks
    ]
    return tensors, about


def from_tensors(tensors: Mapping[str, Tensor], about: Sequence[Mapping[str, Any]]) -> tuple[Mark, ...]:
    """Put marks together again.

    Raises:
        KeyError, TypeError: something is missing, or is there and should not.
    """
    return tuple(
        Mark(
            kind=str(one["kind"]),
            rows=tensors[f"marks.{number}.rows"],
            picture=tensors[f"marks.{number}.picture"],
            place=(int(one["place"][0]), int(one["place"][1])),
            ratio=float(one["ratio"]),
            evidence=LabelEvidence(**one["evidence"]),
        )
        for number, one in enumerate(about)
    )

"""Find the suspects of a report in the data set, and say why each is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow.compute as pc

from puregen_transforms._text import shown
from puregen_transforms.data.pictures import Pictures
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.inspection.image_scores import OWN, ImageScores
from puregen_transforms.review.found import finds_of, read_found

_BY_ENERGY = ("energy_outliers", "unusual_energies", "shared_patterns")
"""Searches that ask the energy network."""

_ALIKE = 8
"""Images shown beside one that share its mark, or were found by the same search in the same class."""


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """An image in which something was found.

    Args:
        row: in the data set.
        name: of its file, or "".
        class_name: or "".
        score: by which suspects are put in order.
        verdict: "poison", "doubtful" or "mislabeled"; "flagged", if one detector alone was run.
        found_by: the first search that flags it.
        sha256: of what is stored of it.
    """

    row: int
    name: str
    class_name: str
    score: float
    verdict: str
    found_by: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why a search flags an image.

    Args:
        search: its name.
        finds: what it looks for, in words.
        score: that it gives to the image, in its own units; None if there is none.
        marks: those on the image, with their numbers in the report of the search.
        looks_like: the class that the image looks like; "" if the search does not say.
    """

    search: str
    finds: str
    score: float | None
    marks: tuple[tuple[int, Mark], ...] = ()
    looks_like: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects:
    """The suspects of a report, the most suspicious first.

    Args:
        listed: in order; images with the same bytes are one suspect each.
        reports: of the searches that found something, by name.
        scores: of all images.
        pictures: of the data set, by row.
        class_names: by label.
    """

    listed: tuple[Suspect, ...]
    reports: dict[str, DetectionReport]
    scores: ImageScores
    pictures: Pictures
    class_names: Sequence[str] = field(default=())

    @classmethod
    def open(
        cls,
        report: Path,
        pictures: Pictures,
        *,
        name_of: Callable[[int], str | None],
        class_names: Sequence[str] = (),
        labels: Sequence[int] | None = None,
    ) -> Suspects:
        """Read a report, and the bytes of its suspects.

        Args:
            report: folder that `puregen detect`, with a detector or without, or `puregen inspect` has written.
            pictures: of the data set that was searched.
            name_of: name of the image in a row, as in the report.
            class_names: by label.
            labels: of all images, which the report of one detector does not have; -1 where there is none.

        Raises:
            FileNotFoundError: no report.
            ValueError: a report of another set, or an image that cannot be read.
        """
        scores, reports = read_found(report, classes=[_name(label, class_names) for label in labels or ()])
        scores.check_length(len(pictures))
        found = []
        for line in scores.table.select(OWN).filter(pc.field("verdict") != "").to_pylist():
            row = int(line["row"])
            if line["name"] != (name_of(row) or ""):
                raise ValueError(
                    f"Expected the images that were searched, but row {row} is {shown(repr(name_of(row)))}, and was "
                    f"{shown(repr(line['name']))}. Files were added, removed or renamed: search the set again; "
                    "decisions are kept by content."
                )
            if (digest := pictures.digest_of(row)) is None:
                raise ValueError(f"Expected the images that were searched, but row {row} has none. Search again.")
            found.append(
                Suspect(
                    row=row,
                    name=line["name"],
                    class_name=line["class"],
                    score=line["score"],
                    verdict=line["verdict"],
                    found_by=line["found_by"],
                    sha256=digest,
                )
            )
        order = {"poison": 0, "doubtful": 1, "mislabeled": 2}
        found.sort(key=lambda one: (order.get(one.verdict, 3), -one.score, one.row))
        for name, one in reports.items():
            if len(one) != len(scores):
                raise ValueError(f"Expected {len(scores)} images in the report of {name!r}, but it has {len(one)}.")
        return cls(listed=tuple(found), reports=reports, scores=scores, pictures=pictures, class_names=class_names)

    def __len__(self) -> int:
        return len(self.listed)

    @cached_property
    def by_digest(self) -> dict[str, Suspect]:
        """Find a suspect by its content; of copies, the most suspicious."""
        return {one.sha256: one for one in reversed(self.listed)}

    @cached_property
    def _by_row(self) -> dict[int, Suspect]:
        return {one.row: one for one in self.listed}

    def clean_rows(self, class_name: str | None = None) -> list[int]:
        """List the rows in which nothing was found, of one class or of all."""
        clean = self.scores.table.select(["row", "class", "verdict"]).filter(pc.field("verdict") == "")
        if class_name is not None:
            clean = clean.filter(pc.field("class") == class_name)
        rows: list[int] = clean.column("row").to_pylist()
        return rows

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Name the classes that have suspects."""
        return tuple(sorted({one.class_name for one in self.listed if one.class_name}))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """List the verdicts there are, the gravest first."""
        return tuple(dict.fromkeys(one.verdict for one in self.listed))

    def evidence_of(self, suspect: Suspect) -> list[Evidence]:
        """Say what each search that flags an image has against it."""
        found = []
        for name, report in self.reports.items():
            if bool(report.flagged[suspect.row]):
                score = float(report.scores[suspect.row])
                found.append(
                    Evidence(
                        search=name,
                        finds=finds_of(name),
                        score=None if score != score else score,
                        marks=_marks_on(report, suspect.row),
                        looks_like=self._looks_like(report, suspect.row),
                    )
                )
        return found

    def alike(self, suspect: Suspect) -> list[Suspect]:
        """Choose other suspects with the same mark; where it has none, of the same search and class."""
        for report in self.reports.values():
            for _, mark in _marks_on(report, suspect.row):
                others = [self._by_row[row] for row in mark.rows.tolist() if row in self._by_row and row != suspect.row]
                if others:
                    return others[:_ALIKE]
        same = (suspect.found_by, suspect.class_name)
        others = [one for one in self.listed if (one.found_by, one.class_name) == same and one.row != suspect.row]
        return others[:_ALIKE]

    def _looks_like(self, report: DetectionReport, row: int) -> str:
        if "looks_like" not in report.details:
            return ""
        return _name(int(report.details["looks_like"][row]), self.class_names)


def shows_in_energy(evidence: Sequence[Evidence]) -> bool:
    """Tell whether a map of an image's energy adds to what speaks against it.

    It shows what is like noise: what searches by the energy flag, and a pattern over the whole image. Small marks have
    a place of their own, and a patch of flat squares has a low energy.
    """
    kinds = {mark.kind for one in evidence for _, mark in one.marks}
    return kinds == {"pattern"} or any(one.search in _BY_ENERGY for one in evidence)


def describe(mark: Mark) -> str:
    """Say what the picture of a mark shows, and where in the images it is."""
    down, right = mark.place
    what = f"{mark.kind} on {len(mark.rows):,} images"
    if mark.kind == "pattern":
        return f"{what}, over all of each; drawn stronger than it is, and gray is no change"
    if mark.kind == "local pattern":
        return f"{what}, from row {down}, column {right} on; drawn stronger than it is, and gray is no change"
    if mark.kind == "patch":
        return f"{what}, most often from row {down}, column {right} on; this is their mean"
    return f"{what}, from row {down}, column {right} on"


def _name(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if 0 <= label < len(class_names) else ""


def _marks_on(report: DetectionReport, row: int) -> tuple[tuple[int, Mark], ...]:
    return tuple((number, mark) for number, mark in enumerate(report.marks) if bool((mark.rows == row).any()))

"""Name the places of a clean copy, its report and its quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from puregen_transforms.cleaning.records import recorded
from puregen_transforms.cleaning.rule import QUARANTINE, Rule
from puregen_transforms.data.atomic import check_free
from puregen_transforms.detection.decisions import FILE as DECISIONS
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.inspection.page import PAGE

STATE = ".unfinished"
"""Folder in the report's, for what is finished of a search that may be killed; no split has such a name."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """The places of a clean copy and of what belongs to it.

    Args:
        copy: a new folder, or for tables a new .parquet file.
        report: the folder of the report.
    """

    copy: Path
    report: Path

    @classmethod
    def of(cls, destination: Path, report: Path | None = None) -> Places:
        """Name the report after the destination, unless it has a name."""
        return cls(copy=destination, report=report or _beside(destination, "report", suffix=""))

    @property
    def quarantine(self) -> Path:
        """The copy of what is left out, beside the clean one, which any program can open as it is."""
        return _beside(self.copy, "quarantine", suffix=".parquet" if self.copy.suffix == ".parquet" else "")

    def decisions(self) -> Decisions:
        """Read what a person decided in `puregen review` of an earlier report, that of each split included."""
        found = Decisions()
        for folder in (self.report, *(path.parent for path in sorted(self.report.glob(f"*/{DECISIONS}")))):
            found.merge(Decisions.load(folder / DECISIONS))
        return found

    @property
    def page(self) -> Path | None:
        """The report to look at, or the folder of several; None if there is none."""
        page = self.report / PAGE
        return page if page.exists() else self.report if self.report.is_dir() else None


def _beside(destination: Path, word: str, *, suffix: str) -> Path:
    stem = destination.stem if destination.suffix == ".parquet" else destination.name
    return destination.with_name(f"{stem}.{word}{suffix}")


def check_places(places: Places, rule: Rule) -> None:
    """Refuse to write over anything, before a search.

    Raises:
        FileExistsError: there is something else than what an earlier run has left.
        NotADirectoryError: there is a file where the folder of the report goes.
    """
    is_folder = places.copy.suffix != ".parquet"
    check_free(places.copy, folder=is_folder)
    if rule.flagged == QUARANTINE and recorded(places.quarantine, rule) is None:
        check_free(places.quarantine, folder=is_folder)
    if places.report.exists() and not places.report.is_dir():
        raise NotADirectoryError(f"Expected a folder for the report, but {places.report} is a file.")

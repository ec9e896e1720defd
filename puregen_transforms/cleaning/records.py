"""Record in the manifest of a clean copy what was decided of its source, and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puregen_transforms.cleaning.findings import CleaningReport
from puregen_transforms.cleaning.rule import Rule
from puregen_transforms.whole_sets.manifest import PART_ROWS_SETTING, differences
from puregen_transforms.whole_sets.treatment import ALL_PURIFIED, TREATMENT, Treatment
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

CLEANING, SEARCHED = "cleaning", "sha256 of the rows that were searched"
"""Names in a manifest."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The treatment of each row of a data set, and what it was decided by.

    Args:
        report: what was found.
        treatment: what becomes of each row.
        content: sha256 of the rows of each part before the search, by its name: others must not get into the copy.
        part_rows: rows of a part.
    """

    report: CleaningReport
    treatment: Treatment
    content: Mapping[str, str]
    part_rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready record, without what the source says of itself."""
        return {CLEANING: self.report.to_dict(), SEARCHED: dict(self.content)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Decision:
        """Read it from a manifest.

        Raises:
            ValueError: values of another kind.
        """
        source, content = settings["source"], settings.get(SEARCHED, {})
        rows = source.get(PART_ROWS_SETTING)
        if not isinstance(content, dict) or not isinstance(rows, int):
            raise ValueError("Expected the rows that were searched in the record of a clean copy, but it is damaged.")
        treatment = Treatment.from_dict(source[TREATMENT]) if TREATMENT in source else ALL_PURIFIED
        report = CleaningReport.from_dict(settings[CLEANING])
        return cls(report=report, treatment=treatment, content=content, part_rows=rows)


def recorded(copy: Path, rule: Rule) -> Decision | None:
    """Read what an earlier run has decided, finished or not; None if there was none.

    Raises:
        FileExistsError: it was no cleaning, or one by another rule.
        ValueError: its record is damaged.
    """
    settings = UnfinishedCopy(copy.absolute()).recorded()
    if settings is None:
        return None
    if CLEANING not in settings:
        raise FileExistsError(f"Expected a clean copy in {copy}, but that is another one. Choose another destination.")
    decision = Decision.from_settings(settings)
    if changes := differences({"rule": decision.report.rule}, {"rule": rule.to_dict()}):
        raise FileExistsError(
            f"Expected the rule by which an earlier run has cleaned to {copy}, but {'; '.join(changes)}. Repeat that "
            "run's options, or choose another destination."
        )
    return decision

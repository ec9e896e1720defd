"""What the manifest of a clean copy says, and what is made of one that was changed."""

from __future__ import annotations

import json

import pytest

from puregen_transforms.cleaning import CleaningReport, Findings
from puregen_transforms.cleaning.records import CLEANING, SEARCHED, Decision
from puregen_transforms.cleaning.rule import Rule

FINDINGS = Findings(
    level="poisoned",
    headline="Poisoned: 2 of 9 images should not be learned.",
    images=9,
    flagged=2,
    doubtful=0,
    mislabeled=1,
    found_by={"stamps": 2},
    not_looked_for=("a warp",),
)
REPORT = CleaningReport(
    splits={"train": FINDINGS, "test": Findings(**{**vars(FINDINGS), "level": "nothing found"})},
    rule=Rule().to_dict(),
    versions={"puregen-transforms": "0.1.0"},
)


def test_a_report_is_what_it_was_after_it_was_recorded():
    again = CleaningReport.from_dict(json.loads(json.dumps(REPORT.to_dict())))
    assert again == REPORT
    assert again.level == "poisoned", "the worst of the splits"
    assert again.not_looked_for == ("a warp",)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": None},
        {"verdict": {"train": {"level": "poisoned"}}},
        {"verdict": {"train": {**vars(FINDINGS), "level": "clean"}}},
        {"rule": 3},
        {"versions": None},
    ],
)
def test_a_changed_record_is_refused(change):
    with pytest.raises(ValueError, match="Expected what a clean copy was made by"):
        CleaningReport.from_dict({**REPORT.to_dict(), **change})


@pytest.mark.parametrize("change", [{SEARCHED: []}, {"source": {}}, {"source": {"rows of a part": "many"}}])
def test_a_changed_decision_is_refused(change):
    settings = {"source": {"rows of a part": 7}, CLEANING: REPORT.to_dict(), SEARCHED: {"00000": "ab"}}
    assert Decision.from_settings(settings).part_rows == 7
    with pytest.raises(ValueError, match="it is damaged"):
        Decision.from_settings({**settings, **change})

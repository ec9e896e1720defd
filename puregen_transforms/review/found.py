"""Read what was found in a set: by a whole search, or by one detector."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from puregen_transforms._files import read_json
from puregen_transforms.detection.registry import DETECTORS
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.inspection.image_scores import ImageScores
from puregen_transforms.inspection.one_detector import FLAGGED, scores_of
from puregen_transforms.inspection.page import NUMBERS, ONE_DETECTOR
from puregen_transforms.inspection.page import SEARCHES as FOLDER


@dataclass(frozen=True)
class Headline:
    """What a report comes to.

    Args:
        text: in a sentence.
        level: in a word.
    """

    text: str
    level: str


def read_headline(report: Path) -> Headline:
    """Read what a report comes to.

    Raises:
        FileNotFoundError, ValueError: no report.
    """
    if _is_of_one_detector(report):
        one = DetectionReport.load(report / ONE_DETECTOR)
        count, total = int(one.flagged.sum()), len(one)
        return Headline(
            f"{one.detector} flags {count:,} of {total:,} images. One detector alone is no verdict.", FLAGGED
        )
    verdict = read_json(report / NUMBERS)
    if not isinstance(verdict, dict):
        raise ValueError(f"Expected the verdict of a search in {str(report / NUMBERS)!r}, but it is none.")
    return Headline(str(verdict.get("headline", "")), str(verdict.get("level", "")))


def read_found(report: Path, *, classes: Sequence[str]) -> tuple[ImageScores, dict[str, DetectionReport]]:
    """Read the scores of all images, and the reports of the searches that found something, by name.

    Args:
        report: folder.
        classes: name of each image's class, for the report of one detector, which has none; empty without labels.

    Raises:
        FileNotFoundError, ValueError: no report.
    """
    if _is_of_one_detector(report):
        one = DetectionReport.load(report / ONE_DETECTOR)
        return scores_of(one, report, classes=classes), {one.detector: one}
    scores = ImageScores.load(report)
    return scores, {path.stem: DetectionReport.load(path) for path in sorted((report / FOLDER).glob("*.safetensors"))}


def finds_of(name: str) -> str:
    """Say what a detector flags."""
    for search in SEARCHES:
        if search.name == name:
            return search.finds
    return (inspect.getdoc(DETECTORS[name]) or name).split("\n")[0].rstrip(".") if name in DETECTORS else name


def _is_of_one_detector(report: Path) -> bool:
    return (report / ONE_DETECTOR).is_file() and not (report / NUMBERS).is_file()

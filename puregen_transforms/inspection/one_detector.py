"""The report of a single detector: what it found, a line for each image, and how the set was opened."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.verdict import above_one, rank_of
from puregen_transforms.inspection.image_scores import LINES, TABLE, ImageScores
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.page import NUMBERS, ONE_DETECTOR, PAGE, SEARCHES

OPENED = "opened.json"
"""How the set was opened, as arguments of `choose_source`."""

FLAGGED = "flagged"
"""Verdict on an image that one detector flags."""


def write_report(report: DetectionReport, folder: Path, origin: Origin) -> None:
    """Write `report.safetensors`, `images.csv` and `opened.json`, each whole or not at all; an earlier report goes.

    Args:
        report: of the detector.
        folder: made if need be.
        origin: of the images.

    Raises:
        OSError: the folder cannot be written.
    """
    for name in (PAGE, NUMBERS, TABLE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / SEARCHES, ignore_errors=True)
    report.save(folder / ONE_DETECTOR)
    names = [origin.name_of(row) or "" for row in range(len(report))]
    report.to_csv(folder / LINES, names=names if any(names) else None)
    write_atomically(folder / OPENED, (json.dumps(dict(origin.opened), indent=1) + "\n").encode())


def scores_of(report: DetectionReport, folder: Path, *, classes: Sequence[str] = ()) -> ImageScores:
    """Put the report of one detector into a table, as that of a whole search.

    Args:
        report: read from the folder.
        folder: with `images.csv`, which has the names.
        classes: name of each image's class; empty without labels.

    Raises:
        FileNotFoundError: there is no `images.csv`.
        ValueError: it has the lines of another set.
    """
    path = folder / LINES
    if not path.is_file():
        raise FileNotFoundError(f"Expected {LINES} beside {ONE_DETECTOR}, with the names of images, but there is none.")
    with path.open(encoding="utf-8", newline="") as file:
        names = [line.get("name") or "" for line in csv.DictReader(file)]
    for what, count in {LINES: len(names), "the data set": len(classes) or len(report)}.items():
        if count != len(report):
            raise ValueError(f"Expected the {len(report)} rows that were searched, but {what} has {count}.")
    flagged = report.flagged.tolist()
    return ImageScores(
        pa.table(
            {
                "row": pa.array(range(len(report)), pa.int64()),
                "name": pa.array(names, pa.string()),
                "class": pa.array(classes or [""] * len(report), pa.string()),
                "score": pa.array(above_one(rank_of(report.scores), report.flagged).numpy(), pa.float32()),
                "verdict": pa.array([FLAGGED if one else "" for one in flagged], pa.string()),
                "found_by": pa.array([report.detector if one else "" for one in flagged], pa.string()),
            }
        )
    )

"""The report of a search: a page to look at, its numbers as JSON, and a line for each image."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.searches import DOUBT, MISLABELED, POISON, UNLEARNABLE
from puregen_transforms.detection.verdict import Searched, Verdict
from puregen_transforms.functional.images import rounded
from puregen_transforms.inspection.audit import Inspection
from puregen_transforms.inspection.energy_section import ENERGIES, energies_table, energy_section
from puregen_transforms.inspection.image_scores import LINES, ImageScores
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.pictures import STYLE, picture
from puregen_transforms.transforms.formats import open_image

PAGE, NUMBERS, SEARCHES = "report.html", "verdict.json", "searches"

ONE_DETECTOR = "report.safetensors"
"""Name of the report of a single detector."""

_TEMPLATES = Path(__file__).parent
_SHOWN_IMAGES, _SHOWN_CLASSES, _SHOWN_MARKS = 12, 5, 8

_URGENT = (UNLEARNABLE, POISON, DOUBT, MISLABELED)
"""What searches mean, in the order in which a page tells of them."""

KINDS = {POISON: "poison", DOUBT: "doubtful", MISLABELED: "mislabeled", UNLEARNABLE: "made unlearnable"}


def write_verdict(
    verdict: Verdict,
    folder: Path,
    origin: Origin,
    *,
    labels: Tensor | None,
    class_names: Sequence[str],
    inspection: Inspection | None = None,
) -> Path:
    """Write `report.html`, `verdict.json`, `images.csv` and `.parquet`, and `searches/`, each file whole or not at all.

    Args:
        verdict: of the set.
        folder: made if need be; files of an earlier report are replaced.
        origin: of the images.
        labels: (N,), negative where an image has none; None without labels.
        class_names: by label.
        inspection: with the verdict; its energies and advice go onto the page, and every energy into
            `energies.parquet`.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        OSError: the folder cannot be written.
    """
    for earlier in (PAGE, ONE_DETECTOR):  # which must not pass for that of a run that fails
        (folder / earlier).unlink(missing_ok=True)
    names = [_class_name(label, class_names) for label in ([] if labels is None else labels.tolist())]
    content = numbers(verdict, origin, names)
    if inspection is not None:
        write_atomically(folder / ENERGIES, energies_table(inspection))
        content["energies"] = inspection.to_dict()
        content["energies"]["advice"]["command"] = origin.purify
    ImageScores.of(verdict, names=origin.names(len(verdict)), classes=names).save(folder)
    _keep_reports(verdict, folder / SEARCHES)
    write_atomically(folder / NUMBERS, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / PAGE, page(verdict, origin, names, inspection=inspection).encode())
    return folder / PAGE


def write_inspection(inspection: Inspection, folder: Path, origin: Origin) -> Path:
    """Write the report of an inspection; see `write_verdict`."""
    return write_verdict(
        inspection.verdict,
        folder,
        origin,
        labels=inspection.labels,
        class_names=inspection.class_names,
        inspection=inspection,
    )


def page(verdict: Verdict, origin: Origin, classes: Sequence[str], *, inspection: Inspection | None = None) -> str:
    """Write the report as one HTML document with its pictures inside.

    Args:
        verdict: of the set.
        origin: of the images.
        classes: name of each image's class; empty without labels.
        inspection: see `write_verdict`.
    """
    import jinja2

    # Class and file names come from the data set, so they are escaped.
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        style=STYLE,
        verdict=verdict,
        findings=[
            _finding(one, verdict, origin, classes)
            for one in sorted(verdict.made, key=lambda one: _URGENT.index(one.search.means))
            if _found(one)
        ],
        marks=[_mark(mark) for one in verdict.made for mark in one.report.marks if not mark.suspicious],
        silent=[one.search for one in verdict.made if not _found(one)],
        facts=origin.facts,
        purify=origin.purify,
        files={"numbers": NUMBERS, "images": LINES},
        **({} if inspection is None else energy_section(inspection, origin)),
    )


def numbers(verdict: Verdict, origin: Origin, classes: Sequence[str]) -> dict[str, Any]:
    """Collect everything but pixels and the scores of single images, JSON-ready."""
    return {
        "source": dict(origin.facts),
        "opened": dict(origin.opened),
        "level": verdict.level,
        "headline": verdict.headline,
        "images": len(verdict),
        "flagged": int(verdict.flagged.sum()),
        "doubtful": int(verdict.doubtful.sum()),
        "mislabeled": int(verdict.mislabeled.sum()),
        "made": [
            {
                "search": one.search.name,
                "finds": one.search.finds,
                "means": one.search.means,
                "flagged": int(one.report.flagged.sum()),
                "by_class": _by_class(one.report.flagged, classes),
                "seconds": one.report.seconds,
                "settings": dict(one.report.settings),
                "marks": [_mark_numbers(mark) for mark in one.report.marks],
            }
            for one in verdict.made
        ],
        "left_out": [
            {"search": one.search.name, "finds": one.search.finds, "why": one.why} for one in verdict.left_out
        ],
        "not_looked_for": list(verdict.not_looked_for),
    }


def _keep_reports(verdict: Verdict, folder: Path) -> None:
    """Keep what each search has found, with its marks, for `DetectionReport.load`; one that found nothing has none."""
    shutil.rmtree(folder, ignore_errors=True)
    for one in verdict.made:
        if _found(one) or one.report.marks:
            one.report.save(folder / f"{one.search.name}.safetensors")


def _found(one: Searched) -> bool:
    return bool(one.report.flagged.any()) or bool(one.doubtful.any())


def _finding(one: Searched, verdict: Verdict, origin: Origin, classes: Sequence[str]) -> dict[str, Any]:
    """Describe what one search found, with pictures."""
    chosen = one.report.flagged | one.doubtful
    also_poison = 0
    if one.search.means == MISLABELED:
        also_poison = int((chosen & verdict.flagged).sum())
        chosen = chosen & verdict.mislabeled
    marks = [mark for mark in one.report.marks if mark.suspicious]
    return {
        "kind": KINDS[one.search.means if bool(one.report.flagged.any()) else DOUBT],
        "finds": one.search.finds,
        "explains": one.search.explains,
        "name": one.search.name,
        "count": int(chosen.sum()),
        "also_poison": also_poison,
        "by_class": list(_by_class(chosen, classes).items())[:_SHOWN_CLASSES],
        "marks": [_mark(mark) for mark in marks[:_SHOWN_MARKS]],
        "images": [
            {
                "row": row,
                "name": origin.name_of(row),
                "class_name": classes[row] if classes else None,
                "picture": picture(rounded(open_image(origin.images[row]).rgb[0])),
            }
            for row in _examples(chosen)
        ],
    }


def _examples(chosen: Tensor) -> list[int]:
    """Choose rows to show, from the first to the last of those chosen."""
    rows = chosen.nonzero().flatten()
    places = torch.linspace(0, len(rows) - 1, min(_SHOWN_IMAGES, len(rows))).round().long()
    return rows[places].tolist()


def _mark(mark: Mark) -> dict[str, Any]:
    return {"picture": picture(mark.picture), **_mark_numbers(mark)}


def _mark_numbers(mark: Mark) -> dict[str, Any]:
    return {"kind": mark.kind, "images": len(mark.rows), "place": list(mark.place), "labels": mark.evidence.verdict}


def _by_class(chosen: Tensor, classes: Sequence[str]) -> Mapping[str, int]:
    """Count images by class, most first; empty without labels."""
    if not classes:
        return {}
    return dict(Counter(classes[row] for row in chosen.nonzero().flatten().tolist()).most_common())


def _class_name(label: int, class_names: Sequence[str]) -> str:
    if label < 0:
        return ""
    return class_names[label] if label < len(class_names) else str(label)

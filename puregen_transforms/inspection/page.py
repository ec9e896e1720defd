"""The report of an audit: a page to look at, and files to compute with."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from puregen_transforms._extras import has_extra
from puregen_transforms._files import write_atomically
from puregen_transforms.detection.findings import OUTLIER, SIGNIFICANCE, SUSPICIOUS
from puregen_transforms.functional.images import rounded
from puregen_transforms.inspection.audit import Inspection, SharedPattern
from puregen_transforms.inspection.dynamics import DEFAULT_STEPS, REMAINING
from puregen_transforms.inspection.pictures import STYLE, around_gray, picture
from puregen_transforms.inspection.verdict import in_words
from puregen_transforms.transforms.formats import open_image

PAGE, NUMBERS, ENERGIES = "report.html", "report.json", "energies.parquet"

AMPLIFY = 4
"""Factor on the changes drawn."""

_TEMPLATE = Path(__file__).with_name("page.html")
_SHOWN_IMAGES = 24
_SHOWN_CLASSES = 50
_SHOWN_PATTERNS = 8


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the images came from.

    Args:
        images: as they were inspected; read again to be shown.
        facts: what to say about the source, by name: source, split, columns, command.
        name_of: file name of a row's image, or None where it has none.
        purify: the command that follows the advice, where the images have a source that a command can name.
    """

    images: Sequence[Any] | Tensor
    facts: Mapping[str, str]
    name_of: Callable[[int], str | None] = lambda row: None
    purify: str | None = None


def write_report(inspection: Inspection, folder: Path, origin: Origin) -> Path:
    """Write `report.html`, `report.json` and `energies.parquet`, each whole or not at all.

    Args:
        inspection: to report.
        folder: made if need be; files of an earlier report are replaced.
        origin: of the images.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomically(folder / ENERGIES, _energies_table(inspection))
    write_atomically(folder / NUMBERS, _numbers(inspection, origin).encode())
    write_atomically(folder / PAGE, page(inspection, origin).encode())
    return folder / PAGE


def page(inspection: Inspection, origin: Origin) -> str:
    """Write the report as one HTML document with its pictures inside."""
    import jinja2

    # Class and file names come from the data set, so they are escaped.
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        inspection=inspection,
        suspicious_level=SUSPICIOUS,
        carriers=int((inspection.pattern_of > 0).sum()),
        outliers=inspection.whole.outliers,
        classes=inspection.classes[:_SHOWN_CLASSES],
        hidden_classes=max(0, len(inspection.classes) - _SHOWN_CLASSES),
        cards=_cards(inspection, origin),
        marked=_marked(inspection),
        patterns=[_pattern(pattern) for pattern in inspection.patterns[:_SHOWN_PATTERNS]],
        figures=_figures(inspection),
        facts=origin.facts,
        purify=origin.purify,
        in_words=in_words,
        amplify=AMPLIFY,
        style=STYLE,
        limits={
            "significance": SIGNIFICANCE,
            "outlier": OUTLIER,
            "steps": DEFAULT_STEPS,
            "remaining": REMAINING,
        },
        files={"numbers": NUMBERS, "energies": ENERGIES},
    )


def _numbers(inspection: Inspection, origin: Origin) -> str:
    content = {"source": dict(origin.facts), **inspection.to_dict()}
    content["advice"]["command"] = origin.purify
    for image in content["flagged"]:
        image["name"] = origin.name_of(image["row"])
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _energies_table(inspection: Inspection) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "row": range(len(inspection.energies)),
        "energy": pa.array(inspection.energies.numpy(), from_pandas=True),  # NaN becomes null
        "score": pa.array(inspection.scores.numpy(), from_pandas=True),
        "pattern": inspection.pattern_of.tolist(),
    }
    if inspection.labels is not None:
        columns["label"] = inspection.labels.tolist()
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _marked(inspection: Inspection) -> str:
    """Name the images in red."""
    return "images with the pattern" if inspection.patterns else "images of highest energy"


def _cards(inspection: Inspection, origin: Origin) -> list[dict[str, Any]]:
    """Describe the suspicious images of the sample, as received, purified, and what changed."""
    cards = []
    pairs = list(zip(inspection.dynamics.rows, inspection.dynamics.repaired, strict=True))[:_SHOWN_IMAGES]
    for row, repaired in sorted(pairs, key=lambda pair: -float(inspection.energies[pair[0]])):
        received = rounded(open_image(origin.images[row]).rgb[0])
        label = -1 if inspection.labels is None else int(inspection.labels[row])
        names = inspection.class_names
        cards.append(
            {
                "row": row,
                "name": origin.name_of(row),
                "class_name": names[label] if 0 <= label < len(names) else None if label < 0 else str(label),
                "energy": float(inspection.energies[row]),
                "score": float(inspection.scores[row]),
                "received": picture(received),
                "repaired": picture(repaired),
                "change": picture(around_gray(AMPLIFY * (repaired.float() - received.float()))),
            }
        )
    return cards


def _pattern(pattern: SharedPattern) -> dict[str, Any]:
    return {
        "carriers": pattern.carriers,
        "by_class": list(pattern.by_class.items())[:5],
        "similarity": pattern.similarity,
        "pictures": [
            (words, factor, picture(around_gray(factor * values)))
            for words, values in (
                ("taken away by purification", pattern.estimate),
                ("common to the images", pattern.excess),
            )
            for factor in [_visible(values)]
        ],
    }


def _visible(change: Tensor) -> int:
    """Choose a factor that spreads nearly all values over the range of a picture."""
    high = float(change.abs().flatten().quantile(0.98))
    return max(1, min(100, round(110 / max(high, 1e-6))))


def _figures(inspection: Inspection) -> dict[str, str]:
    """Figures as data URIs; none without matplotlib."""
    if not has_extra("matplotlib"):
        return {}
    from puregen_transforms.inspection.plots import class_histograms, dynamics_curves, energy_histogram

    there = inspection.energies.isfinite()
    carries = inspection.pattern_of > 0
    figures = {
        "energies": energy_histogram(inspection.energies[there], carries[there], suspicious="images with a pattern"),
        "dynamics": dynamics_curves(inspection.dynamics, suspicious=_marked(inspection)),
    }
    if inspection.labels is not None and inspection.classes:
        members = {group.name: there & (inspection.labels == group.label) for group in inspection.classes}
        figures["classes"] = class_histograms(
            [(name, inspection.energies[rows], carries[rows]) for name, rows in members.items()],
            suspicious="images with a pattern",
        )
    return {
        name: f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}" for name, text in figures.items()
    }

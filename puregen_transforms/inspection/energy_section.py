"""What the page of a report shows of energies, and of images under purification."""

from __future__ import annotations

import base64
import io
from typing import Any

from torch import Tensor

from puregen_transforms._extras import has_extra
from puregen_transforms.detection.findings import OUTLIER, SIGNIFICANCE
from puregen_transforms.detection.verdict import POISONED
from puregen_transforms.functional.images import rounded
from puregen_transforms.inspection.audit import Inspection, SharedPattern
from puregen_transforms.inspection.dynamics import DEFAULT_STEPS, REMAINING
from puregen_transforms.inspection.energy_words import in_words
from puregen_transforms.inspection.heat import glowing
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.pictures import around_gray, picture
from puregen_transforms.transforms.formats import open_image

ENERGIES = "energies.parquet"

AMPLIFY = 4
"""Factor on the changes drawn."""

_SHOWN_IMAGES = 24
_SHOWN_CLASSES = 50
_SHOWN_PATTERNS = 8


def energy_section(inspection: Inspection, origin: Origin) -> dict[str, Any]:
    """Collect what the page shows of energies and purification.

    Args:
        inspection: to show.
        origin: of the images.
    """
    return {
        "inspection": inspection,
        "carriers": int((inspection.pattern_of > 0).sum()),
        "classes": inspection.classes[:_SHOWN_CLASSES],
        "hidden_classes": max(0, len(inspection.classes) - _SHOWN_CLASSES),
        "cards": _cards(inspection, origin),
        "marked": _marked(inspection),
        "patterns": [_pattern(pattern) for pattern in inspection.patterns[:_SHOWN_PATTERNS]],
        "figures": _figures(inspection),
        "in_words": in_words,
        "amplify": AMPLIFY,
        "limits": {
            "significance": SIGNIFICANCE,
            "outlier": OUTLIER,
            "steps": DEFAULT_STEPS,
            "remaining": REMAINING,
        },
        "file": ENERGIES,
    }


def energies_table(inspection: Inspection) -> bytes:
    """Write row, energy, score, pattern, and label of every image as a Parquet file."""
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
    return "poisoned images" if inspection.verdict.level == POISONED else "doubtful images"


def _cards(inspection: Inspection, origin: Origin) -> list[dict[str, Any]]:
    """Describe suspicious images: as received, with their energy, and, if purified, the result and what changed."""
    if inspection.heat is None:
        return []
    dynamics, cards = inspection.dynamics, []
    purified = {} if dynamics is None else dict(zip(dynamics.rows, dynamics.repaired, strict=True))
    drawn = list(zip(inspection.drawn_rows, inspection.heat, strict=True))[:_SHOWN_IMAGES]
    for row, heat in sorted(drawn, key=lambda one: (one[0] not in purified, -float(inspection.energies[one[0]]))):
        received, repaired = rounded(open_image(origin.images[row]).rgb[0]), purified.get(row)
        pictures = {"as received": received, "energy": glowing(received, heat)}
        if repaired is not None:
            change = around_gray(AMPLIFY * (repaired.float() - received.float()))
            pictures |= {"purified": repaired, "change": change}
        label = -1 if inspection.labels is None else int(inspection.labels[row])
        names = inspection.class_names
        cards.append(
            {
                "row": row,
                "name": origin.name_of(row),
                "class_name": names[label] if 0 <= label < len(names) else None if label < 0 else str(label),
                "energy": float(inspection.energies[row]),
                "score": float(inspection.scores[row]),
                "pictures": {words: picture(image) for words, image in pictures.items()},
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
    found = inspection.verdict.flagged | inspection.verdict.doubtful | (inspection.pattern_of > 0)
    marked = _marked(inspection)
    figures = {
        "energies": energy_histogram(inspection.energies[there], found[there], suspicious=marked),
    }
    if inspection.dynamics is not None:
        figures["dynamics"] = dynamics_curves(inspection.dynamics, suspicious=marked)
    if inspection.labels is not None and inspection.classes:
        members = {group.name: there & (inspection.labels == group.label) for group in inspection.classes}
        figures["classes"] = class_histograms(
            [(name, inspection.energies[rows], found[rows]) for name, rows in members.items()],
            suspicious=marked,
        )
    return {
        name: f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}" for name, text in figures.items()
    }

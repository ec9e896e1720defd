"""Take measured figures over into the records of the packaged checkpoints, and fill their cards anew.

    uv run python benchmarks/record_quality.py

Run it after `purify_quality.py`, whose result it reads: a checkpoint's record gets the rows of its own methods and of
JPEG, if they were measured with these very weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from puregen_transforms.evaluate.records import write_record
from puregen_transforms.hub.cards import write_card
from puregen_transforms.hub.catalogue import DEFAULT_DDPM, DEFAULT_EBM, PACKAGED_CHECKPOINTS

ROOT = Path(__file__).parents[1]
QUALITY = ROOT / "benchmarks" / "results" / "purify_quality.json"
KEPT = ("command", "seed", "machine", "versions")


def quality_of(kind: str, measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured of one kind of generator, beside JPEG."""
    sets = {
        name: {method: row for method, row in rows.items() if row["recipe"]["method"] in (kind, "jpeg")}
        for name, rows in measured["sets"].items()
    }
    return {**{key: measured[key] for key in KEPT}, "sets": sets}


def main() -> None:
    """Update both records and cards."""
    measured = json.loads(QUALITY.read_text(encoding="utf-8"))
    for name in (DEFAULT_EBM, DEFAULT_DDPM):
        path = PACKAGED_CHECKPOINTS / name / "record.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        if measured["weights_sha256"][record["kind"]] != record["weights_sha256"]:
            raise SystemExit(f"{QUALITY.name} judges other weights than those of {name}. Run purify_quality.py.")
        write_record(path, {**record, "quality": quality_of(record["kind"], measured)})
        write_card(name, ROOT / "hub_cards" / name / "README.md")


if __name__ == "__main__":
    main()

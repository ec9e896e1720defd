"""Take measured figures over into the records and cards of the packaged checkpoints, and into RESULTS.md and README.

    uv run python benchmarks/record_quality.py

Run it after any of the benchmarks whose results it reads. A checkpoint's record gets the rows of its own methods that
were measured with these very weights, and keeps what it has where the results are those of another network;
`benchmarks/RESULTS.md` gets all tables, the README one small one.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import adaptive_attackers
import clean_photographs
import clean_verdicts
import compensation_cost
import dynamics_tradeoff
import hundred_thousand
import inspect_false_alarms
import mean_color
import network_free
import overview
import photograph_quality
import photograph_verdicts
import purify_quality
import purify_speed
import recompressed_poison
import reproducibility
import search_costs
import unlearnable_verdicts
import whole_sets

from puregen_transforms._files import write_atomically
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.records import write_record
from puregen_transforms.evaluate.summaries import grouped, summarize
from puregen_transforms.evaluate.tables import markdown
from puregen_transforms.hub.cards import write_card
from puregen_transforms.hub.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUALITY, VICTIMS = RESULTS / "purify_quality.json", RESULTS / "dynamics_tradeoff.json"
SPEED = RESULTS / "purify_speed.json"
TRIGGERLESS = RESULTS / "triggerless_attacks.json"
WHOLE_SETS = RESULTS / "whole_sets.json"
REPRODUCIBILITY, REPRODUCIBILITY_AVX2 = RESULTS / "reproducibility.json", RESULTS / "reproducibility_avx2.json"
MEAN_COLOR = RESULTS / "mean_color.json"
INSPECT = RESULTS / "inspect.json"
NARCISSUS = RESULTS / "narcissus.json"
OVERVIEW = ("narcissus", "gradient_matching", "triggers", "detection")
VERDICTS = {
    "adaptive_attackers": adaptive_attackers.markdown,
    "clean_verdicts": clean_verdicts.markdown,
    "network_free": network_free.markdown,
    "recompressed_poison": recompressed_poison.markdown,
    "search_costs": search_costs.markdown,
    "photograph_verdicts": photograph_verdicts.markdown,
    "photograph_quality": photograph_quality.markdown,
    "hundred_thousand": hundred_thousand.markdown,
    "clean_photographs": clean_photographs.markdown,
    "photograph_quality_avx2": photograph_quality.markdown,
    "unlearnable_verdicts": unlearnable_verdicts.markdown,
    "compensation_cost": compensation_cost.markdown,
}
DOCUMENTS = (ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md")
KEPT = ("command", "seed", "machine", "versions")


def quality_of(kind: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Collect what was measured of one kind of generator, beside JPEG."""
    methods = {"ebm": "ebm", "ddpm": "ddpm", "denoiser": "onestep"}[kind], "jpeg"
    sets = {
        name: {method: row for method, row in rows.items() if row["recipe"]["method"] in methods}
        for name, rows in measured["sets"].items()
    }
    return {**{key: measured[key] for key in KEPT}, "sets": sets}


def victims_of(kind: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Collect what classifiers learned behind one kind of generator, beside none."""
    wanted = {
        "ebm": ("none", "PureGen-EBM", "PureGen-inspect"),
        "ddpm": ("none", "PureGen-DDPM"),
        "denoiser": ("none", "PureGen-onestep"),
    }[kind]
    rows = [
        {"defense": name, "attack": group, **asdict(summarize(cells))}
        for name, groups in grouped(measured["cells"]).items()
        if name.startswith(wanted)
        for group, cells in groups.items()
    ]
    about = {key: measured[key] for key in ("command", "machine", "versions", "images")}
    return {**about, "rows": rows}


def of_these_weights(results: list[dict[str, Any]], record: dict[str, Any]) -> list[dict[str, Any]]:
    """Choose the results that were measured with a checkpoint's weights."""
    kind, sha256 = record["kind"], record["weights_sha256"]
    return [result for result in results if result["weights_sha256"].get(kind) == sha256]


def protocol_tables() -> dict[str, str]:
    """Write the tables of every protocol that was run at the preset `cpu`, by its name."""
    paths = [path for name in PROTOCOLS if (path := RESULTS / f"{name}.json").exists()]
    return {path.stem: markdown(_read(path)) for path in paths}


def all_tables() -> dict[str, str]:
    """Write the tables of all benchmarks, by the name of the mark under which they stand."""
    return {
        **protocol_tables(),
        "overview": overview.markdown({name: _read(RESULTS / f"{name}.json") for name in OVERVIEW}),
        "purify_quality": purify_quality.markdown(_read(QUALITY)),
        "dynamics_tradeoff": dynamics_tradeoff.markdown(_read(VICTIMS)),
        "triggerless_attacks": markdown(_read(TRIGGERLESS)),
        "mean_color": mean_color.markdown(_read(MEAN_COLOR)),
        "inspect": inspect_false_alarms.markdown(_read(INSPECT)),
        "purify_speed": purify_speed.markdown(_read(SPEED)),
        "reproducibility": reproducibility.markdown(_read(REPRODUCIBILITY), _read(REPRODUCIBILITY_AVX2)),
        **{name: made(_read(path)) for name, made in VERDICTS.items() if (path := RESULTS / f"{name}.json").exists()},
        "whole_sets": whole_sets.markdown(_read(WHOLE_SETS)),
    }


MARKS = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def tables_in(text: str) -> list[str]:
    """List the tables that a document has a place for."""
    return [name for _, name, _ in MARKS.findall(text)]


def with_tables(text: str) -> str:
    """Fill the tables between their marks in a document."""
    tables = all_tables()
    return MARKS.sub(lambda mark: f"{mark[1]}{tables[mark[2]].strip()}\n{mark[3]}", text)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Update records, cards and documents."""
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("purify_quality*.json")]
    attacked = [json.loads(NARCISSUS.read_text(encoding="utf-8"))]
    for entry in (entry for entry in CATALOGUE.values() if entry.packaged):
        path = entry.folder / "record.json"
        record = json.loads(path.read_text(encoding="utf-8"))
        for quality in of_these_weights(measured, record):
            record["quality"] = quality_of(entry.kind, quality)
        for victims in of_these_weights(attacked, record):
            record["victims"] = victims_of(entry.kind, victims)
        write_record(path, record)
        write_card(entry.name, ROOT / "hub_cards" / entry.name / "README.md")
    for path in DOCUMENTS:
        write_atomically(path, with_tables(path.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()

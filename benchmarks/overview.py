"""Draw up the README's small table, which defense stops which attack, from the records of the protocols.

No benchmark of its own: every figure is the mean success of `results/narcissus.json`, `gradient_matching.json` or
`triggers.json`, and for `puregen detect` of `detection.json`, at the preset `cpu`. `record_quality.py` puts it into the
README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puregen_transforms.evaluate.summaries import NO_ATTACK, Groups, Table, grouped, summarize
from puregen_transforms.evaluate.tables import energy_network

LEFT_OUT = "PureGen-inspect, found images left out"
WHOLE_SEARCH = "whole_search, found left out"
"""What `puregen detect` flags left out: a defense of the protocol `detection`."""
STOPPED = 0.1
"""Success below which an attack counts as stopped."""

COLUMNS = {
    "no defense": "none",
    "JPEG 25": "JPEG 25",
    "purify all, EBM": "PureGen-EBM",
    "purify all, DDPM": "PureGen-DDPM",
    "leave out patterns": LEFT_OUT,
    "leave out patterns and outliers": "PureGen-inspect, and high energies left out",
}
"""Name of each defense in the records, by the heading of its column."""


@dataclass(frozen=True)
class Row:
    """Say where the figures of a row are.

    Attributes:
        words: what the poisoned images carry.
        protocol: which compares the purifying defenses.
        group: of attacks, in that protocol.
        searched: the same attack, in the protocol `detection`.
    """

    words: str
    protocol: str
    group: str
    searched: str


ROWS = (
    Row("a faint pattern, ±8 of 255 (Narcissus)", "narcissus", "ε 8", "narcissus, ε 8"),
    Row("the same, ±16 of 255", "narcissus", "ε 16", "narcissus, ε 16"),
    Row(
        "noise made for each image, ±16 (gradient matching)",
        "gradient_matching",
        "gradient matching",
        "gradient_matching",
    ),
    Row("such noise and a patch (clean-label)", "triggers", "clean_label", "clean_label"),
    Row("a faint second picture (Blended)", "triggers", "blended", "blended"),
    Row("a slight warp (WaNet)", "triggers", "wanet", "wanet"),
    Row("a black and white patch (BadNets)", "triggers", "badnets", "badnets"),
    Row("smooth stripes (SIG)", "triggers", "sig", "sig"),
    Row("a pattern of its own in each image (input-aware)", "triggers", "input_aware", "input_aware"),
)


def markdown(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the table, from the records of the protocols by name."""
    cells = {name: grouped(record["cells"]) for name, record in records.items()}
    searches = cells["detection"][WHOLE_SEARCH]
    lines = [[row.words, *_successes(cells[row.protocol], row.group, searched=searches[row.searched])] for row in ROWS]
    accuracies = [_accuracy(cells["triggers"], defense) for defense in COLUMNS.values()]
    lines.append(["*accuracy, if nothing is poisoned*", *accuracies, _accuracy(cells["detection"], WHOLE_SEARCH), ""])
    head = ["what the poisoned images carry", *COLUMNS, "leave out what `detect` flags", "never poisoned"]
    return f"{Table('', head, lines).markdown()}\n{_origin(list(records.values()))}\n"


def _origin(records: Sequence[Mapping[str, Any]]) -> str:
    commands = ", ".join(f"`{record['command']}`" for record in records)
    networks = " and ".join(dict.fromkeys(map(energy_network, records)))
    machines = " and ".join(dict.fromkeys(record["machine"] for record in records))
    return f"Made by {commands}; EBM and energies of {networks}; {machines}."


def _successes(defenses: Groups, group: str, *, searched: Sequence[Mapping[str, Any]]) -> list[str]:
    """Success against each defense, then against victims that never saw poison; a dash where it was not run."""
    found = [*(defenses.get(name, {}).get(group) for name in COLUMNS.values()), searched]
    successes = [summarize(cells).success if cells else None for cells in found]
    floor = summarize(defenses["none"][group]).floor
    return [*map(_success, successes), _whole_percent(floor)]


def _success(value: float | None) -> str:
    """Whole percent, bold where the defense stops the attack, a dash where it was not run."""
    if value is None:
        return "–"
    return f"**{_whole_percent(value)}**" if value < STOPPED else _whole_percent(value)


def _accuracy(defenses: Groups, name: str) -> str:
    return _whole_percent(summarize(defenses[name][NO_ATTACK]).accuracy)


def _whole_percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"

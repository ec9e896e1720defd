"""Draw up the README's small table, which defense stops which attack, from the records of the protocols.

No benchmark of its own: every figure is the mean success of `results/narcissus.json`, `gradient_matching.json` or
`triggers.json`, at the preset `cpu`. `record_quality.py` puts it into the README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from puregen_transforms.evaluate.summaries import NO_ATTACK, Groups, Table, grouped, summarize
from puregen_transforms.evaluate.tables import energy_network

LEFT_OUT = "PureGen-inspect, found images left out"
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

ROWS = (
    ("a faint pattern, ±8 of 255 (Narcissus)", "narcissus", "ε 8"),
    ("the same, ±16 of 255", "narcissus", "ε 16"),
    ("noise made for each image, ±16 (gradient matching)", "gradient_matching", "gradient matching"),
    ("such noise and a patch (clean-label)", "triggers", "clean_label"),
    ("a faint second picture (Blended)", "triggers", "blended"),
    ("a slight warp (WaNet)", "triggers", "wanet"),
    ("a black and white patch (BadNets)", "triggers", "badnets"),
    ("smooth stripes (SIG)", "triggers", "sig"),
    ("a pattern of its own in each image (input-aware)", "triggers", "input_aware"),
)
"""What the poisoned images carry, and where its figures are: protocol and group of attacks."""


def markdown(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the table, from the records of the protocols by name."""
    cells = {name: grouped(record["cells"]) for name, record in records.items()}
    lines = [[words, *_successes(cells[protocol], group)] for words, protocol, group in ROWS]
    accuracies = [_accuracy(cells["triggers"], defense) for defense in COLUMNS.values()]
    lines.append(["*accuracy, if nothing is poisoned*", *accuracies, ""])
    head = ["what the poisoned images carry", *COLUMNS, "never poisoned"]
    return f"{Table('', head, lines).markdown()}\n{_origin(list(records.values()))}\n"


def _origin(records: Sequence[Mapping[str, Any]]) -> str:
    commands = ", ".join(f"`{record['command']}`" for record in records)
    networks = " and ".join(dict.fromkeys(map(energy_network, records)))
    machines = " and ".join(dict.fromkeys(record["machine"] for record in records))
    return f"Made by {commands}; EBM and energies of {networks}; {machines}."


def _successes(defenses: Groups, group: str) -> list[str]:
    """Success against each defense, then against victims that never saw poison; a dash where it was not run."""
    found = [defenses.get(name, {}).get(group) for name in COLUMNS.values()]
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

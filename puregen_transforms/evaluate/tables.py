"""Tables of what was measured, from the record of a benchmark alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from puregen_transforms.evaluate.published import PUBLISHED, Figures


@dataclass(frozen=True)
class Summary:
    """The cells of one defense against one group of attacks.

    Args:
        cells: how many.
        accuracy: mean over them.
        success: mean over attacks and seeds; None without attack, or for attacks on all that is learned.
        deviation: of the success, over attacks, each averaged over its seeds (of the population).
        worst: success of the worst attack, averaged over its seeds.
        floor: mean success against victims that never saw poison.
        detection: means of what a detector reached.
    """

    cells: int
    accuracy: float
    success: float | None = None
    deviation: float | None = None
    worst: float | None = None
    floor: float | None = None
    detection: Mapping[str, float] | None = None


def summarize(records: Sequence[Mapping[str, Any]]) -> Summary:
    """Of the records of cells with one defense and one group of attacks."""
    accuracy = fmean(record["accuracy"] for record in records)
    found = [record["detection"] for record in records if record.get("detection")]
    names = set.intersection(*(set(one) for one in found)) if found else set()
    detection = {name: fmean(one[name] for one in found) for name in sorted(names)} or None
    by_attack: dict[str, list[float]] = {}
    for record in records:
        if "success" in record:
            by_attack.setdefault(record["poison"]["digest"], []).append(record["success"])
    if not by_attack:
        return Summary(len(records), accuracy, detection=detection)
    means = [fmean(values) for values in by_attack.values()]
    floor = fmean(record["success_never_poisoned"] for record in records)
    return Summary(len(records), accuracy, fmean(means), pstdev(means), max(means), floor, detection)


def grouped(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Records of cells by defense and by group of attacks, in the order in which they come."""
    found: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in records:
        cell = record["cell"]
        found.setdefault(cell["defense"]["name"], {}).setdefault(cell["attack"]["group"], []).append(record)
    return found


def markdown(record: Mapping[str, Any], *, published: bool = True) -> str:
    """The tables of a benchmark's record, one for each kind of victim.

    Args:
        record: with `name`, `cells` and what `benchmarks/protocol.py` says beside.
        published: whether the paper's figures stand beside ours, where there are such.
    """
    victims: dict[str, list[Mapping[str, Any]]] = {}
    for cell in record["cells"]:
        victims.setdefault(victim_in_words(cell["cell"]["victim"]), []).append(cell)
    parts = []
    for words, cells in victims.items():
        heading = f"**{words}**\n\n" if len(victims) > 1 else ""
        parts.append(heading + _table(cells, PUBLISHED.get(record["name"], {}) if published else {}))
    return "\n".join(parts)


def victim_in_words(victim: Mapping[str, Any]) -> str:
    """Such as "resnet18, fine-tuned"."""
    how = {"scratch": "from scratch", "linear": "last layer anew", "fine_tune": "all layers tuned"}
    return f"{victim['classifier']}, {how[victim['scenario']]}"


def _table(cells: Sequence[Mapping[str, Any]], published: Mapping[str, Mapping[str, Figures]]) -> str:
    by_defense = grouped(cells)
    groups = list(dict.fromkeys(group for rows in by_defense.values() for group in rows))
    attacks = [group for group in groups if group != "no attack"]
    head, lines = ["defense"] + ["accuracy, no attack"] * ("no attack" in groups), []
    for group in attacks:
        head += [f"{group}: success (worst)", "accuracy"] + ["paper"] * (group in published)
    for name, rows in by_defense.items():
        row = [name]
        if "no attack" in groups:
            row.append(_percent(summarize(rows["no attack"]).accuracy) if "no attack" in rows else "–")
        for group in attacks:
            summary = summarize(rows[group]) if group in rows else None
            row += [_success(summary), _percent(summary.accuracy) if summary else "–"]
            if group in published:
                row.append(_in_words(published[group].get(name)))
        lines.append(row)
    if attacks:
        floors = [
            summarize(by_defense[next(iter(by_defense))].get(group, [])).floor
            if group in by_defense[next(iter(by_defense))]
            else None
            for group in attacks
        ]
        row = ["never poisoned"] + [""] * ("no attack" in groups)
        for group, floor in zip(attacks, floors, strict=True):
            row += ["–" if floor is None else _percent(floor), ""] + [""] * (group in published)
        lines.append(row)
    rule = "|" + "---|" * len(head)
    return "\n".join([_row(head), rule, *map(_row, lines)]) + "\n"


def _row(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _success(summary: Summary | None) -> str:
    if summary is None or summary.success is None or summary.worst is None:
        return "–"
    several = f" ({summary.worst:.1%})" if summary.cells > 1 else ""
    return _percent(summary.success) + several


def _in_words(figures: Figures | None) -> str:
    return "–" if figures is None else " / ".join(f"{figure:g}" for figure in figures)

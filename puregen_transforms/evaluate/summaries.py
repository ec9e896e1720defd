"""Records of cells, grouped and averaged; and tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from puregen_transforms._text import as_markdown

NO_ATTACK = "no attack"

LEFT_OUT = ", found left out"
"""Ends the name of a row in which what detectors flag is not learned."""

FALSE_ALARMS = 0.005
"""Share of other rows that may be flagged, for `found_at`: a set of 10,000 loses 50 images."""


@dataclass(frozen=True)
class Summary:
    """The cells of one defense against one group of attacks.

    Args:
        cells: how many.
        accuracy: mean over them.
        success: mean over attacks and seeds; None without attack, or for attacks on all that is learned.
        deviation: of the success over attacks, each averaged over its seeds (of the population).
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
    """Average the records of cells with one defense and one group of attacks."""
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


def outcome(records: Sequence[Mapping[str, Any]]) -> str:
    """Write success and accuracy in percent, such as "3.0 / 71.0"; a dash where there is no success."""
    summary = summarize(records)
    success = "–" if summary.success is None else f"{100 * summary.success:.1f}"
    return f"{success} / {100 * summary.accuracy:.1f}"


def in_percent(values: Sequence[float]) -> str:
    """Write the mean of shares in percent, with their range where they differ; a dash without any."""
    if not values:
        return "–"
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    mean = f"{100 * fmean(values):.1f}"
    return mean if low == high or len(values) > 3 else f"{mean} ({low}–{high})"


def search_cost(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Compare the time of searches with that of training the victim of the same set; None if neither was measured."""
    times = [record.get("seconds", {}) for record in records]
    shares = [one["search"] / one["train"] for one in times if "search" in one and one.get("train")]
    return fmean(shares) if shares else None


@dataclass(frozen=True)
class Table:
    """A heading, and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Without its title."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(map(as_markdown, line))} |" for line in lines) + "\n"


Groups = dict[str, dict[str, list[Mapping[str, Any]]]]


def grouped(cells: Sequence[Mapping[str, Any]]) -> Groups:
    """Group records of cells by defense and by group of attacks, in the order in which they come."""
    found: Groups = {}
    for record in cells:
        cell = record["cell"]
        found.setdefault(cell["defense"]["name"], {}).setdefault(cell["attack"]["group"], []).append(record)
    return found


def by_victim(record: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Group the cells of a benchmark by kind of victim, in words."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for cell in record["cells"]:
        found.setdefault(victim_in_words(cell["cell"]["victim"]), []).append(cell)
    return found


def victim_in_words(victim: Mapping[str, Any]) -> str:
    """Describe a victim, such as "small network, 12 epochs from scratch"."""
    how = {
        "scratch": f"{victim['epochs']} epochs from scratch",
        "linear": "its last layer anew",
        "fine_tune": "all its layers tuned",
        "frozen": "frozen, with a linear layer on its features",
    }
    name = {"small": "small network", "tiny": "tiny network"}.get(victim["classifier"], victim["classifier"])
    return f"{name}, {how[victim['scenario']]}"

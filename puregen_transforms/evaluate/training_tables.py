"""Tables of what training defenses reach, find and cost: defenses as rows, attacks as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from puregen_transforms.evaluate.summaries import Groups, Table, grouped, in_percent, outcome

_NO_DEFENSE = "none"

_AT_BEST = "Not the result: attack success / accuracy after the most accurate epoch, which the code of V&B reports (%)"
"""Of up to 2,000 of the test images; see `Judge`."""

Records = Sequence[Mapping[str, Any]]


def training_tables(record: Mapping[str, Any]) -> list[Table]:
    """Make the tables of the protocol `training_defenses`, from its record alone.

    Defenses that differ from an earlier one in the settings of their training alone get a table of their own beside it.
    """
    rows = grouped(record["cells"])
    groups = list(dict.fromkeys(group for cells in rows.values() for group in cells))
    whole, parts = _parted(rows)
    plain = _plain_seconds(rows)
    tables = [
        _outcomes("Attack success / accuracy (%)", whole, groups, plain),
        _matrix(_AT_BEST, _with("by_epoch", whole), groups, _at_best),
        _matrix(
            "Poison found / other images held for poisoned (%)", _with("detection", whole), groups, _found_and_flagged
        ),
    ]
    if parts:
        varied = [_without_settings(cells) for cells in parts.values()]
        kept = {name: cells for name, cells in whole.items() if _without_settings(cells) in varied}
        beside = {name: whole[name] for name in (_NO_DEFENSE,) if name in whole} | kept
        met = [group for group in groups if any(group in cells for cells in parts.values())]
        tables.append(_outcomes("Parts of a defense: attack success / accuracy (%)", beside | parts, met, plain))
        tables.append(_matrix("Parts of a defense: found / held for poisoned (%)", parts, met, _found_and_flagged))
    return [table for table in tables if table.rows]


def _parted(rows: Groups) -> tuple[Groups, Groups]:
    """Part the defenses into those of their own kind, and variants of these."""
    whole: Groups = {}
    parts: Groups = {}
    for name, cells in rows.items():
        about = _without_settings(cells)
        known = about["train"] and about in map(_without_settings, whole.values())
        (parts if known else whole)[name] = cells
    return whole, parts


def _outcomes(title: str, rows: Groups, groups: Sequence[str], plain: Mapping[Any, float]) -> Table:
    """Make a line for each defense, with its cost, and one for victims that never saw poison."""
    table = _matrix(title, rows, groups, outcome)
    costs = [_cost([one for records in rows[name].values() for one in records], plain) for name in rows]
    lines = [[line[0], cost, *line[1:]] for line, cost in zip(table.rows, costs, strict=True)]
    first = next(iter(rows.values()))
    floors = [[one["success_never_poisoned"] for one in first.get(group, ()) if "success" in one] for group in groups]
    return Table(
        title,
        ["defense", "cost of search and training (1: a plain training)", *groups],
        [*lines, ["never poisoned", "", *map(in_percent, floors)]],
    )


def _matrix(title: str, rows: Groups, groups: Sequence[str], words: Callable[[Records], str]) -> Table:
    """Make a line for each defense, with a column for each group of attacks."""
    lines = [
        [name, *(words(cells[group]) if group in cells else "–" for group in groups)] for name, cells in rows.items()
    ]
    return Table(title, ["defense", *groups], lines)


def _with(key: str, rows: Groups) -> Groups:
    """Choose the defenses whose records have something."""
    return {name: cells for name, cells in rows.items() if any(key in one for one in _all(cells))}


def _at_best(records: Records) -> str:
    """Write success and accuracy after the epoch in which accuracy was highest, the first of several."""
    courses = [record["by_epoch"] for record in records]
    best = [course["accuracy"].index(max(course["accuracy"])) for course in courses]
    success, accuracy = (
        [course[key][place] for course, place in zip(courses, best, strict=True) if key in course]
        for key in ("success", "accuracy")
    )
    return f"{in_percent(success)} / {in_percent(accuracy)}"


def _found_and_flagged(records: Records) -> str:
    figures = [record.get("detection", {}) for record in records]
    found, flagged = ([one[key] for one in figures if key in one] for key in ("tpr", "fpr"))
    return f"{in_percent(found)} / {in_percent(flagged)}"


def _plain_seconds(rows: Groups) -> dict[Any, float]:
    """Give how long a plain training takes, by machine."""
    seconds: dict[Any, list[float]] = {}
    for record in _all(rows.get(_NO_DEFENSE, {})):
        seconds.setdefault(record.get("machine"), []).append(record["seconds"]["train"])
    return {machine: median(found) for machine, found in seconds.items()}


def _cost(records: Records, plain: Mapping[Any, float]) -> str:
    """Compare search and training with a plain training, and count the victim that a detector needs as one more.

    Of several it is the median, as machines have other things to do; what a machine without a plain training took says
    nothing.
    """
    told = [one for one in records if one.get("machine") in plain]
    if not told:
        return "–"
    spent = [(one["seconds"].get("search", 0.0) + one["seconds"]["train"]) / plain[one.get("machine")] for one in told]
    needed = [bool(one.get("network_read")) for one in records]
    return f"{median(spent) + all(needed):.1f}"


def _all(cells: Mapping[str, Records]) -> list[Mapping[str, Any]]:
    return [record for records in cells.values() for record in records]


def _without_settings(cells: Mapping[str, Records]) -> Mapping[str, Any]:
    """Describe a defense, but for its name and how its training defense is set."""
    defense = _all(cells)[0]["cell"]["defense"]
    train = defense.get("train")
    return {**defense, "name": None, "train": train and train["name"]}

"""Tables of what was measured, from the record of a benchmark alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from puregen_transforms._text import as_markdown, shown
from puregen_transforms.evaluate.detection_tables import detection_tables
from puregen_transforms.evaluate.published import CLASSES, PUBLISHED, PUREGEN, SET_UPS, Figures
from puregen_transforms.evaluate.summaries import (
    NO_ATTACK,
    Groups,
    Summary,
    Table,
    by_victim,
    grouped,
    search_cost,
    summarize,
)
from puregen_transforms.evaluate.training_tables import training_tables
from puregen_transforms.hub.catalogue import CATALOGUE

DETECTION, TRAINING = ("detection", "larger_victim", "no_clean_images"), "training_defenses"
"""Protocols with tables of their own."""


def tables(record: Mapping[str, Any]) -> list[Table]:
    """Success and accuracy, a table for each kind of victim; then how well detectors detect, if there are any.

    Lines are defenses; or, where there is one alone, attacks.
    """
    if record["name"] in DETECTION:
        return detection_tables(record, published=_is_comparable(record))
    if record["name"] == TRAINING:
        return training_tables(record)
    published = _published(record)
    found = [
        _outcomes(words, grouped(cells), published) if len(grouped(cells)) > 1 else _attacks(words, grouped(cells))
        for words, cells in by_victim(record).items()
    ]
    detectors = [_detectors(words, grouped(cells)) for words, cells in by_victim(record).items()]
    return found + [table for table in detectors if table.rows]


def markdown(record: Mapping[str, Any]) -> str:
    """Write all tables, each under its victim where there are several kinds, and what has to be said about them."""
    kinds = len(by_victim(record))
    parts = []
    for index, table in enumerate(tables(record)):
        titled = kinds > 1 or index >= kinds or record["name"] in (*DETECTION, TRAINING)
        heading = f"**{as_markdown(table.title)}**\n\n" if titled else ""
        parts.append(heading + table.markdown())
    return "\n".join([*parts, _in_markdown(remarks(record))])


def _published(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, Figures]]:
    """Choose the published figures that may stand beside a record: those of the same classes."""
    return PUBLISHED.get(record["name"], {}) if _is_comparable(record) else {}


def _is_comparable(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of the same classes as published figures."""
    return tuple(record.get("class_names", ())) == CLASSES and record["preset"] != "smoke"


def _victims(record: Mapping[str, Any]) -> str:
    """Count the victims of a defense and an attack, which differ in their seeds."""
    seeds: dict[str, set[int]] = {}
    for one in record["cells"]:
        seeds.setdefault(json.dumps({**one["cell"], "seed": None}, sort_keys=True), set()).add(one["cell"]["seed"])
    low, high = min(map(len, seeds.values())), max(map(len, seeds.values()))
    return f"{low} to {high} victims" if low < high else f"{high} victim{'s' * (high > 1)}"


def remarks(record: Mapping[str, Any]) -> str:
    """Name the command, and how the set-up differs from the published one."""
    attacked = [cell["poison"] for cell in record["cells"] if "poison" in cell]
    rows = sorted({f"{poison['poisoned_rows']} of {poison['set_rows']}" for poison in attacked})
    victims = _victims(record)
    command = str(record["command"]).replace("`", "'")
    machines = "; ".join(dict.fromkeys(cell.get("machine", record["machine"]) for cell in record["cells"]))
    text = (
        f"`{command}`, {victims} a cell; {record['images']}; "
        f"poisoned rows: {', '.join(rows)}; energies and PureGen-EBM of {energy_network(record)}; {machines}."
    )
    if _published(record):
        text += f' "paper": {SET_UPS.get(record["name"], PUREGEN)}'
    quality = record.get("jpeg_quality")
    names = {cell["cell"]["defense"]["name"] for cell in record["cells"]}
    if quality is not None and f"JPEG {quality}" in names:
        text += (
            f" JPEG of quality {quality} and above is no fair rival here: the set was stored at that quality to begin "
            "with."
        )
    if record["preset"] == "smoke":
        text += " Made in two minutes from few images: it shows how things work, not how well."
    return text + "\n"


def _in_markdown(words: str) -> str:
    """Escape all but the command, which stands between backticks."""
    start, command, rest = words.split("`", 2)
    return f"{start}`{shown(command)}`{as_markdown(rest.rstrip())}\n"


def energy_network(record: Mapping[str, Any]) -> str:
    """Name the energy network that a record was made with; by its hash, if it is not in the catalogue."""
    sha256 = str(record.get("weights_sha256", {}).get("ebm", "not recorded"))
    names = [entry.name for entry in CATALOGUE.values() if entry.sha256 == sha256]
    return names[0] if names else f"weights {sha256[:12]}"


def _outcomes(title: str, defenses: Groups, published: Mapping[str, Mapping[str, Figures]]) -> Table:
    groups = list(dict.fromkeys(group for rows in defenses.values() for group in rows))
    attacks = [group for group in groups if group != NO_ATTACK]
    head = ["defense", "accuracy, no attack"]
    several = any(_attacks_in(rows.get(group, [])) > 1 for rows in defenses.values() for group in attacks)
    aimed = _with_success(defenses)
    for group in attacks:
        head += [f"{group}: attack success{' (worst)' * several}"] * (group in aimed)
        head += ["accuracy" if group in aimed else f"{group}: accuracy"]
        figures = "success / accuracy / worst class" if group in aimed else "accuracy"
        head += [f"paper: {figures}, %"] * (group in published)
    averaged = not aimed and len(attacks) > 1
    head += ["mean of attacks: accuracy"] * averaged
    lines = []
    for name, rows in defenses.items():
        line = [name, _percent(summarize(rows[NO_ATTACK]).accuracy) if NO_ATTACK in rows else "–"]
        for group in attacks:
            summary = summarize(rows[group]) if group in rows else None
            line += [_success(summary, several)] * (group in aimed)
            line += [_percent(summary.accuracy) if summary else "–"]
            line += [_in_words(published[group].get(name))] if group in published else []
        if averaged:
            line.append(_mean_accuracy([rows.get(group, []) for group in attacks]))
        lines.append(line)
    line = ["never poisoned", ""]
    for group in attacks:
        floor = summarize(next(rows[group] for rows in defenses.values() if group in rows)).floor
        line += ["–" if floor is None else _percent(floor)] * (group in aimed) + [""] * (1 + (group in published))
    return Table(title, head, [*lines, line] if aimed else lines)


def _mean_accuracy(attacks: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Average over attacks, of which none must be missing."""
    return _percent(fmean(summarize(records).accuracy for records in attacks)) if all(attacks) else "–"


def _with_success(defenses: Groups) -> set[str]:
    """Find the groups of attacks that have another success than a low accuracy."""
    return {
        group for rows in defenses.values() for group, cells in rows.items() if any("success" in one for one in cells)
    }


def _attacks(title: str, defenses: Groups) -> Table:
    """Make a line for each group, where there is one defense alone."""
    head = ["attack", "poisoned rows", "covers", "accuracy", "attack success", "success, never poisoned"]
    lines = []
    for group, records in next(iter(defenses.values())).items():
        summary, poison = summarize(records), records[0].get("poison", {"poisoned_rows": 0, "cover_rows": 0})
        figures = ["–" if x is None else _percent(x) for x in (summary.accuracy, summary.success, summary.floor)]
        lines.append([group, str(poison["poisoned_rows"]), str(poison["cover_rows"]), *figures])
    return Table(title, head, lines)


def _detectors(title: str, defenses: Groups) -> Table:
    """Make a line for each detector and group of attacks; of the figures, those that a record has."""
    figures = {
        "tpr": "poisoned rows found",
        "fpr": "other rows suspected",
        "auroc": "AUROC",
        "found_at": "found at 0.5 % false alarms",
        "cost": "cost (1: training a victim)",
    }
    found = {
        (name, group): {**summary.detection, **({} if (cost := search_cost(records)) is None else {"cost": cost})}
        for name, rows in defenses.items()
        for group, records in rows.items()
        if (summary := summarize(records)).detection
    }
    shown = [key for key in figures if key in ("tpr", "fpr", "auroc") or any(key in one for one in found.values())]
    lines = [
        [*place, *("–" if key not in values else f"{values[key]:.3f}" for key in shown)]
        for place, values in found.items()
    ]
    return Table(f"Detection ({title})", ["detector", "attack", *(figures[key] for key in shown)], lines)


def _attacks_in(records: Sequence[Mapping[str, Any]]) -> int:
    return len({record["poison"]["digest"] for record in records})


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _success(summary: Summary | None, several: bool) -> str:
    if summary is None or summary.success is None or summary.worst is None:
        return "–"
    return _percent(summary.success) + (f" ({_percent(summary.worst)})" if several else "")


def _in_words(figures: Figures | None) -> str:
    return "–" if figures is None else " / ".join(f"{figure:g}" for figure in figures)

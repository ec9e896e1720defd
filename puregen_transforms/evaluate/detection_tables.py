"""Tables of who finds what: attacks as rows, detectors as columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from puregen_transforms.evaluate.published import PUBLISHED_DETECTION, PUBLISHED_MEANS
from puregen_transforms.evaluate.summaries import (
    FALSE_ALARMS,
    LEFT_OUT,
    NO_ATTACK,
    Groups,
    Table,
    grouped,
    in_percent,
    outcome,
    search_cost,
)

NO_POISON = (NO_ATTACK, "label noise")
"""Groups in which nothing is poisoned: what is flagged there is flagged without need."""

GOOD_TPR = 0.9

_NO_DEFENSE = "none"


@dataclass(frozen=True)
class Measured:
    """What detectors found, and what victims of the rest learned.

    Args:
        alone: records by detector and group, in which the detector alone is judged.
        left: records by detector and group, of victims that learn what it leaves.
        victims: records by group, of victims that learn everything.
    """

    alone: Groups
    left: Groups
    victims: dict[str, list[Mapping[str, Any]]]

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]]) -> Measured:
        """Part the records of a benchmark by what their defense does."""
        parts: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
        for record in cells:
            if record["cell"]["defense"]["detect"]:
                parts[record["cell"]["defense"]["keep_flagged"]].append(record)
        left = {name.removesuffix(LEFT_OUT): records for name, records in grouped(parts[False]).items()}
        return cls(grouped(parts[True]), left, grouped(cells).get(_NO_DEFENSE, {}))

    @property
    def groups(self) -> list[str]:
        """List the groups of attacks, in the order in which they were measured."""
        return list(dict.fromkeys([*self.victims, *(group for rows in self.alone.values() for group in rows)]))

    def found(self, detector: str, group: str, figure: str) -> list[float]:
        """List a figure of a detector, one for each victim."""
        records = self.alone.get(detector, {}).get(group, [])
        return [record["detection"][figure] for record in records if figure in record.get("detection", {})]

    def untouched(self, detector: str, group: str) -> list[float]:
        """List the share flagged of images without a trigger; all but the poisoned ones where there are no covers."""
        return self.found(detector, group, "untouched") or self.found(detector, group, "fpr")

    def means(self) -> dict[str, dict[str, tuple[float | None, float | None]]]:
        """Average by group and detector the shares of poisoned images found and of images without a trigger flagged.

        None stands where there are no such images.
        """

        def mean(values: Sequence[float]) -> float | None:
            return fmean(values) if values else None

        return {
            group: {
                name: (mean(self.found(name, group, "tpr")), mean(self.untouched(name, group)))
                for name, rows in self.alone.items()
                if group in rows
            }
            for group in self.groups
        }


def detection_tables(record: Mapping[str, Any], *, published: bool) -> list[Table]:
    """Make the tables of the protocol `detection`, from its record alone.

    Args:
        record: of the protocol.
        published: whether published figures stand beside.
    """
    measured = Measured.of(record["cells"])
    found = [_overview(measured, PUBLISHED_MEANS if published else {})]
    found.append(_matrix("Poisoned images found / other images flagged (%)", measured, _found_and_flagged))
    found.append(_matrix("AUROC / found where 0.5 % of the others are flagged (%)", measured, _ranking))
    if measured.left:
        found.append(_outcomes(measured))
    beside = _published(measured) if published else None
    return [*found, beside] if beside and beside.rows else found


def _overview(measured: Measured, published: Mapping[str, tuple[float, float]]) -> Table:
    """Make a line for each detector: over all attacks, and where there is no poison."""
    head = [
        "detector", "needs", "cost", "found, mean", "attacks found", "sets judged right",
        "highest share of others flagged", "of images without a trigger", "flagged without poison",
        "with label noise: right labels flagged",
    ]  # fmt: skip
    head += ["published mean: found / flagged"] if published else []
    lines = []
    for detector, rows in measured.alone.items():
        attacks = [group for group in rows if group not in NO_POISON and measured.found(detector, group, "tpr")]
        tpr = {group: fmean(measured.found(detector, group, "tpr")) for group in attacks}
        fpr = {group: fmean(measured.found(detector, group, "fpr")) for group in attacks}
        untouched = {group: fmean(measured.untouched(detector, group)) for group in attacks}
        good = sum(tpr[group] >= GOOD_TPR and untouched[group] <= FALSE_ALARMS for group in attacks)
        clean = [measured.found(detector, group, "fpr") for group in NO_POISON]
        some = [record for records in rows.values() for record in records]
        lines.append(
            [
                detector,
                _needs(some[0]),
                _cost(some),
                in_percent(list(tpr.values())),
                f"{good} of {len(attacks)}",
                f"{sum(_is_right(measured, detector, group) for group in rows)} of {len(rows)}",
                *(f"{100 * max(shares.values()):.1f}" if shares else "–" for shares in (fpr, untouched)),
                *(in_percent(values) for values in clean),
                *[_pair(published.get(detector))] * bool(published),
            ]
        )
    return Table(
        f"Detectors (found: {GOOD_TPR:.0%} or more, and {FALSE_ALARMS:.1%} or less of the images without a trigger, "
        "which covers have; judged right: with every victim something is flagged if there is poison, and nothing if "
        "there is none)",
        head,
        lines,
    )


def _is_right(measured: Measured, detector: str, group: str) -> bool:
    """Tell whether a detector flags something in a poisoned set, and nothing in one without poison."""
    tpr, fpr = measured.found(detector, group, "tpr"), measured.found(detector, group, "fpr")
    if group in NO_POISON:
        return not any([*tpr, *fpr])
    return bool(tpr) and all(tpr)


def _matrix(title: str, measured: Measured, cell: Callable[[Measured, str, str], str]) -> Table:
    """Make a line for each group of attacks, with a column for each detector."""
    detectors = list(measured.alone)
    lines = [[group, *(cell(measured, name, group) for name in detectors)] for group in measured.groups]
    return Table(title, ["attack", *detectors], lines)


def _found_and_flagged(measured: Measured, detector: str, group: str) -> str:
    tpr, fpr = measured.found(detector, group, "tpr"), measured.found(detector, group, "fpr")
    return f"{in_percent(tpr)} / {in_percent(fpr)}" if tpr or fpr else "–"


def _ranking(measured: Measured, detector: str, group: str) -> str:
    auroc, found_at = measured.found(detector, group, "auroc"), measured.found(detector, group, "found_at")
    return f"{in_percent(auroc)} / {in_percent(found_at)}" if auroc else "–"


def _outcomes(measured: Measured) -> Table:
    """Make a line for each group of attacks: success and accuracy of victims of what each detector leaves."""
    detectors = list(measured.left)
    head = ["attack", "never poisoned", _NO_DEFENSE, *detectors]
    lines = []
    for group in measured.groups:
        floors = [one["success_never_poisoned"] for one in measured.victims.get(group, []) if "success" in one]
        columns = [measured.victims, *(measured.left[name] for name in detectors)]
        outcomes = [outcome(rows[group]) if group in rows else "–" for rows in columns]
        lines.append([group, in_percent(floors), *outcomes])
    return Table("Attack success / accuracy of victims of what is left (%)", head, lines)


def _published(measured: Measured) -> Table:
    """Set published shares beside ours: found / flagged, ours first."""
    head, lines = ["source", "attack", "detector", "published", "ours"], []
    for source, groups in PUBLISHED_DETECTION.items():
        for group, detectors in groups.items():
            for name, figures in detectors.items():
                if (ours := _found_and_flagged(measured, name, group)) != "–":
                    shown = _pair(figures) if group != NO_ATTACK else f"– / {figures[1]:g}"
                    lines.append([source, group, name, shown, ours])
    return Table("Published: poisoned images found / other images flagged (%)", head, lines)


def _needs(record: Mapping[str, Any]) -> str:
    needs = ["a victim"] if record.get("network_read") else []
    needs += [f"{record['reserved_images']:,} clean images"] if "reserved_images" in record else []
    return ", ".join(needs) or "nothing"


def _cost(records: Sequence[Mapping[str, Any]]) -> str:
    """Compare the time of searches with that of training a victim; "1 +" where a victim has to be trained first."""
    cost = search_cost(records)
    return "–" if cost is None else ("1 + " if records[0].get("network_read") else "") + f"{cost:.2f}"


def _pair(figures: tuple[float, float] | None) -> str:
    return "–" if figures is None else f"{figures[0]:g} / {figures[1]:g}"

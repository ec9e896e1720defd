"""Judge classes by how many of their images have an outlying energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from puregen_transforms.detection.findings import CLEAR, OUTLIER, SIGNIFICANCE, UNUSUAL, GroupFinding
from puregen_transforms.detection.statistics import binomial_tail, robust_scores

HIGH_ENERGY = 3.0
"""Robust standard deviations above a set's median from which on an energy is rare: 0.4 % of clean CIFAR-10."""

USUAL_QUARTILE = 0.5
"""Score within the whole set that the lower quartile of an ordinary class stays below."""

USUAL_OUTLIERS = 1e-3
"""Share of outliers that clean classes are granted."""


SURE = 1e-4
"""Chance that so many outliers in a class, or in the whole set, must be below before any image is held for unusual. Of
219 clean sets two have a class below `SIGNIFICANCE`, as is to be expected, and none comes near this."""


def score_energies(energies: Tensor, members: Mapping[int, Tensor]) -> Tensor:
    """Score each energy within its class, in robust standard deviations above its median.

    Args:
        energies: (N,), NaN where there is no image.
        members: rows of each class; the other images are scored within the whole set.

    Returns:
        (N,), NaN where there is no image.
    """
    every = energies.isfinite().nonzero().flatten()
    scores = torch.full_like(energies, float("nan"))
    scores[every] = robust_scores(energies[every])
    for rows in members.values():
        scores[rows] = _scores_in_class(energies[rows], scores[rows])
    return scores


def _scores_in_class(energies: Tensor, in_set: Tensor) -> Tensor:
    """Score a class' energies, given their scores in the whole set.

    Where a third of a class is poisoned, its own median and spread are, too, and nothing stands out from them. The
    set's do not move; they may be asked for classes whose other images are like those of the set.
    """
    own = robust_scores(energies)
    if float(in_set.quantile(0.25)) > USUAL_QUARTILE:
        return own
    return torch.where(in_set > OUTLIER, torch.maximum(own, in_set), own)


def rows_by_class(labels: Tensor | None, energies: Tensor) -> dict[int, Tensor]:
    """List the rows of each class that have an energy; those without a label are in none."""
    present = [] if labels is None else sorted({label for label in labels.tolist() if label >= 0})
    members = {label: ((labels == label) & energies.isfinite()).nonzero().flatten() for label in present}
    return {label: rows for label, rows in members.items() if len(rows)}


def judge_classes(
    energies: Tensor, scores: Tensor, members: Mapping[int, Tensor], names: Sequence[str]
) -> list[GroupFinding]:
    """Judge each class by its energies; how many outliers are usual in this set, the other classes tell."""
    tests = len(members) + 1
    outliers = {label: int((scores[rows] > OUTLIER).sum()) for label, rows in members.items()}
    found = []
    for label, rows in members.items():
        others = [other for other in members if other != label]
        elsewhere = sum(outliers[other] for other in others) / max(1, sum(len(members[other]) for other in others))
        name = names[label] if label < len(names) else str(label)
        found.append(judge_group(name, label, energies[rows], scores[rows], tests, usual=elsewhere))
    return found


def judge_group(
    name: str, label: int | None, energies: Tensor, scores: Tensor, tests: int, *, usual: float = 0.0
) -> GroupFinding:
    """Judge a group by its energies.

    Args:
        name: of the group.
        label: of the class.
        energies: (n,) of the group.
        scores: (n,) robust scores of them.
        tests: groups that are judged.
        usual: share of outliers in the other groups.
    """
    outliers = int((scores > OUTLIER).sum())
    rate = max(USUAL_OUTLIERS, float((scores < -OUTLIER).float().mean()), usual)
    p_value = min(1.0, tests * binomial_tail(outliers, len(energies), min(rate, 0.5)))
    return GroupFinding(
        name=name,
        label=label,
        images=len(energies),
        examined=0,
        median_energy=float(energies.median()),
        energy_spread=1.4826 * float((energies - energies.median()).abs().median()),
        outliers=outliers,
        outlier_p=p_value,
        level=UNUSUAL if p_value < SIGNIFICANCE else CLEAR,
    )


def high_energies(
    scores: Tensor, classes: Sequence[GroupFinding], whole: GroupFinding, labels: Tensor | None
) -> Tensor:
    """Mark images of high energy in the classes that have more outliers than chance gives: (N,) bool.

    Nothing is marked unless one class, or the whole set, has them beyond doubt.

    Args:
        scores: (N,) of `score_energies`.
        classes: of `judge_classes`.
        whole: of the set, which counts where no class does.
        labels: (N,) or None.
    """
    if min(one.outlier_p for one in (whole, *classes)) >= SURE:
        return torch.zeros_like(scores, dtype=torch.bool)
    crowded = [one.label for one in classes if one.outlier_p < SIGNIFICANCE and one.label is not None]
    high = scores > HIGH_ENERGY
    if labels is not None and crowded:
        return high & torch.isin(labels, torch.tensor(crowded, dtype=torch.int64))
    return high & (whole.outlier_p < SIGNIFICANCE)

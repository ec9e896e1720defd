"""Weigh labels: whether those of the images that carry a mark go with the mark, or with what the images show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import empty_rows, folder_of, gathered
from puregen_transforms.detection.look_alikes import evenly
from puregen_transforms.detection.marks import HARMLESS, POISON, UNDECIDED, LabelEvidence, Mark
from puregen_transforms.detection.ridge import fit_ridge
from puregen_transforms.detection.row_parts import fill_parts, rows_at_once
from puregen_transforms.detection.statistics import binomial_tail

UNLIKELY, DOUBTFUL = 1e-3, 0.05
"""Chance of a surplus in one class below which it has a reason, and above which it needs none."""

LEAST_EXCESS = 0.2
"""Share of the carriers that must be a surplus: covers keep their labels, and watermarks are not spread evenly."""

FAR = 3.0
"""Standard errors by which agreement must differ from that of true labels, or of random ones, to be unlike it."""

LEAST_AGREEMENT = 0.75
"""Below this so many labels do not fit that it is no matter of which classes carry a watermark more often."""

_MOST_ROWS = 20_000
_SIDE, _CELLS, _DIRECTIONS = 32, 4, 8
_RIDGE = 0.02


def weigh_marks(marks: Sequence[Mark], images: Tensor, labels: Tensor | None) -> tuple[Mark, ...]:
    """Add to each mark what the labels say of it.

    Args:
        marks: with rows of `images`.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, negative where an image has none; None without labels.
    """
    if labels is None or not marks:
        return tuple(marks)
    described = describe_pictures(images)
    return tuple(replace(mark, evidence=weigh_labels(described, labels, mark.rows)) for mark in marks)


def weigh_labels(described: Tensor, labels: Tensor, carriers: Tensor) -> LabelEvidence:
    """Tell poison from a harmless mark, such as a watermark or a camera's date, by the labels of its carriers.

    Two things speak for poison: one class has more carriers than chance gives (all-to-one, clean-label), or labels
    that do not fit the pictures (all-to-all, untargeted), as a linear classifier that learned the other images sees
    it. A mark is harmless if neither does, and the labels fit better than random ones would; few carriers leave that
    undecided.

    Args:
        described: (N, D) of `describe_pictures`.
        labels: (N,) int64, negative where an image has none.
        carriers: (n,) rows.
    """
    carries = torch.zeros(len(labels), dtype=torch.bool)
    carries[carriers] = True
    known = labels >= 0
    own, others = carries & known, ~carries & known
    classes = labels[known].unique()
    if not own.any() or len(classes) < 2:
        return LabelEvidence()
    label, excess, chance = _surplus(labels[own], labels[others], classes)
    fit = _agreement(described, labels, own, others, classes)
    agreement, from_true, from_random = (None, 0.0, 0.0) if fit is None else fit
    misfit = agreement is not None and agreement < LEAST_AGREEMENT and from_true < -FAR
    concentrated = chance < UNLIKELY and excess >= LEAST_EXCESS
    uneven = chance < DOUBTFUL and excess >= LEAST_EXCESS
    rest = own & (labels != label)
    return LabelEvidence(
        verdict=POISON if concentrated or misfit else HARMLESS if from_random > FAR and not uneven else UNDECIDED,
        label=label if concentrated else None,
        excess=excess,
        chance=chance,
        agreement=agreement,
        spares_others=concentrated and _are_harmless(described, labels, rest, others, classes, label),
    )


def _are_harmless(
    described: Tensor, labels: Tensor, rest: Tensor, others: Tensor, classes: Tensor, target: int
) -> bool:
    """Tell whether carriers of classes other than the target's are covers: spread evenly, with labels that fit.

    Carriers that are more frequent in a second class are not spared, even if their labels fit: they could be
    clean-label poison of another target.
    """
    remaining = classes[classes != target]
    if int(rest.sum()) < 2 or len(remaining) < 2:
        return False
    _, _, chance = _surplus(labels[rest], labels[others & (labels != target)], remaining)
    fit = _agreement(described, labels, rest, others, classes)
    return chance >= DOUBTFUL and fit is not None and fit[0] >= LEAST_AGREEMENT and fit[2] > FAR


def describe_pictures(images: Tensor) -> Tensor:
    """Describe coarse colors and edges: (N, 3, H, W) uint8 -> (N, 8 * 8 * 3 + 4 * 4 * 8) float32, perhaps in a file."""
    numbers = 3 * 8**2 + _DIRECTIONS * _CELLS**2
    found = empty_rows((len(images), numbers), torch.float32, folder=folder_of(images))
    return fill_parts(found, _describe, images, rows_at_once(images))


def _describe(images: Tensor) -> Tensor:
    small = F.adaptive_avg_pool2d(images.float() / 255, _SIDE)
    gray = F.pad(small.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    right, down = gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2], gray[..., 2:, 1:-1] - gray[..., :-2, 1:-1]
    direction = (torch.atan2(down, right) / math.pi * _DIRECTIONS).floor().long().remainder(_DIRECTIONS)
    edges = torch.zeros(len(images), _DIRECTIONS, _SIDE, _SIDE).scatter_(1, direction, torch.hypot(down, right))
    coarse = F.adaptive_avg_pool2d(edges, _CELLS).flatten(1)
    return torch.cat([F.adaptive_avg_pool2d(small, 8).flatten(1), F.normalize(coarse.sqrt())], dim=1)


def _surplus(own: Tensor, others: Tensor, classes: Tensor) -> tuple[int, float, float]:
    """Find the class that has most carriers beyond its share of the other images.

    Returns:
        The class, which share of the carriers is a surplus, and the chance of it times the number of classes.
    """
    counts = (own[:, None] == classes).sum(0)
    shares = ((others[:, None] == classes).sum(0) + 1) / (len(others) + len(classes))
    excess = (counts / len(own) - shares) / (1 - shares)
    most = int(excess.argmax())
    chance = len(classes) * binomial_tail(int(counts[most]), len(own), float(shares[most]))
    return int(classes[most]), max(0.0, float(excess[most])), min(1.0, chance)


def _agreement(
    described: Tensor, labels: Tensor, own: Tensor, others: Tensor, classes: Tensor
) -> tuple[float, float, float] | None:
    """Measure how well the carriers' labels fit their pictures, by a ridge classifier of the other images.

    Returns:
        Agreement, 1 as of the others' labels and 0 as of random ones, and its distance from either in standard errors;
        None with too few other images, or where the classifier cannot tell classes apart.
    """
    learned = evenly(others.nonzero().flatten(), _MOST_ROWS)
    if len(learned) < 2 * len(classes):
        return None
    asked = own.nonzero().flatten()
    wanted, wanted_of_asked = ((labels[rows, None] == classes).float() for rows in (learned, asked))
    # Each group around its own mean, as the mark changes all of its carriers' descriptions in the same way.
    known, unknown = gathered(described, learned), gathered(described, asked)
    center, scale = known.mean(0), known.std(0).clamp_min(1e-6)
    known = known.sub_(center).div_(scale).double()
    unknown = unknown.sub_(unknown.mean(0)).div_(scale).double()
    fitted, predicted = fit_ridge(known, (wanted - wanted.mean(0)).double(), unknown, strength=_RIDGE)
    usual, wrong = _preference(fitted, wanted)
    found, _ = _preference(predicted, wanted_of_asked)
    if len(wrong) < 2:
        return None
    true, random = usual.mean(), wrong.mean()
    errors = usual.std() / len(learned) ** 0.5, wrong.std() / len(learned) ** 0.5
    if true - random < FAR * sum(errors):
        return None
    error = 1 / len(asked) ** 0.5
    from_true, from_random = (
        (found.mean() - true) / (error * usual.std()),
        (found.mean() - random) / (error * wrong.std()),
    )
    return float((found.mean() - random) / (true - random)), float(from_true), float(from_random)


def _preference(predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how much the labels are preferred to other classes, and the same for labels that are wrong."""
    around = predicted - predicted.mean(1, keepdim=True)
    others = wanted[torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0))]
    return (around * wanted).sum(1), (around * others).sum(1)[(others * wanted).sum(1) == 0]

"""How well a training defense tells poison apart in the course of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.defenses.training_defense import Look
from puregen_transforms.evaluate.metrics import detection

_BINS = 20
_HISTOGRAMS = 4


def describe_looks(looks: Sequence[Look], poisoned: Tensor) -> dict[str, Any]:
    """Measure each look at a set, JSON-ready.

    Args:
        looks: one or more, in order.
        poisoned: (N,) bool, rows that are.

    Returns:
        `epochs`, and for each the shares `tpr` of poisoned rows that are held for poisoned and `fpr` of the others; of
        some looks, the first and the last among them, `histograms`: how many images of a kind have which suspicion, in
        equal parts of [0, 1].
    """
    found = [detection(look.flagged, poisoned) for look in looks]
    places = torch.linspace(0, len(looks) - 1, min(_HISTOGRAMS, len(looks))).round().int().tolist()
    kinds = {"clean": ~poisoned, "poisoned": poisoned}
    return {
        "epochs": [look.epoch for look in looks],
        **{key: [round(one[key], 4) for one in found] for key in ("tpr", "fpr") if key in found[0]},
        "histograms": [
            {"epoch": looks[place].epoch}
            | {kind: looks[place].scores[rows].histc(_BINS, 0, 1).int().tolist() for kind, rows in kinds.items()}
            for place in places
        ],
    }

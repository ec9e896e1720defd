"""Fit a ridge classifier, and predict each image by one that was not trained on it."""

from __future__ import annotations

import torch
from torch import Tensor

from puregen_transforms.purifier.batches import on_single_threads

_ROWS = 1024


def fit_ridge(known: Tensor, targets: Tensor, unknown: Tensor, *, strength: float) -> tuple[Tensor, Tensor]:
    """Fit linear functions of images, and predict: the same numbers whatever the threads.

    Args:
        known: (n, D) float64, around 0.
        targets: (n, K) float64, around 0.
        unknown: (m, D).
        strength: of the penalty on weights, by image.

    Returns:
        (n, K), for each known image by the fit without it, and (m, K) for the unknown ones.
    """
    return on_single_threads(lambda given: _fit(*given, strength), [(known, targets, unknown)])[0]


def _fit(known: Tensor, targets: Tensor, unknown: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    gram = known.T @ known
    inverse = torch.linalg.inv(gram + strength * len(known) * torch.eye(len(gram), dtype=gram.dtype))
    weights = inverse @ (known.T @ targets)
    leverage = torch.cat([((part @ inverse) * part).sum(1, keepdim=True) for part in known.split(_ROWS)])
    return targets - (targets - known @ weights) / (1 - leverage), unknown @ weights

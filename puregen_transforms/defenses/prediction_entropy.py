"""How sure a network is of its predictions, and which images it is surest of: the Victim's way to find poison."""

from __future__ import annotations

import torch
from torch import Tensor


def prediction_entropy(logits: Tensor) -> Tensor:
    """Compute -mean_c p_c log p_c: (N, classes) -> (N,), 0 for a certain prediction.

    Where a probability is too small for float32, the entropy is 0, as in the published code.
    """
    chances = logits.float().softmax(1)
    return (-(chances * chances.log()).mean(1)).nan_to_num(0.0)


def smoothed(new: Tensor, before: Tensor | None, rate: float) -> Tensor:
    """Move values towards new ones, `rate` of the way; without any before, take the new ones."""
    return new if before is None else rate * new + (1 - rate) * before


def scaled_to_unit(values: Tensor, tail: float = 0.0) -> Tensor:
    """Scale values to [0, 1] by their smallest and largest: (N,) -> (N,). Where these are alike, all become 1.

    Args:
        values: any.
        tail: share of the smallest that become 0, and of the largest that become 1.
    """
    ordered, outside = values.sort().values, int(tail * (len(values) - 1))
    low, high = ordered[outside], ordered[-1 - outside]
    return ((values - low) / (high - low)).clamp(0, 1) if high > low else torch.ones_like(values)


class EntropySplit:
    """Parts a set by entropy: what the network is surest of is suspicious.

    Entropies are smoothed from one look to the next, then scaled to [0, 1]. Where all are alike, nothing is suspicious.

    Args:
        rate: weight of the new entropies, against those before.
        tail: share of the lowest and of the highest entropies that do not count where the others are scaled.
    """

    def __init__(self, rate: float, tail: float = 0.0) -> None:
        self.rate = rate
        self.tail = tail
        self.entropy: Tensor | None = None

    def look(self, logits: Tensor, threshold: float) -> Tensor:
        """Tell which images are suspicious, up to this threshold of scaled entropy: (N, classes) -> (N,) bool."""
        self.entropy = smoothed(prediction_entropy(logits), self.entropy, self.rate)
        return scaled_to_unit(self.entropy, self.tail) <= threshold

    @property
    def suspicion(self) -> Tensor:
        """1 - scaled entropy: (N,) in [0, 1], higher is more suspicious."""
        assert self.entropy is not None
        return 1 - scaled_to_unit(self.entropy, self.tail)

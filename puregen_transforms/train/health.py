"""The watch over a training run, to stop it with a diagnosis before it is lost."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

WINDOW = 200
PATIENCE = 20


class TrainingDivergedError(FloatingPointError):
    """Training went wrong and was stopped; the message says how, and what to change."""


class SpikeWatch:
    """A watch that tells a lasting rise of a noisy positive statistic from its usual spread.

    Args:
        factor: times the median of the last `WINDOW` values that counts as a spike. Single spikes pass;
            `PATIENCE` of them in a row do not.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._spikes = 0

    def __call__(self, value: float) -> bool:
        """Take the next value; True if the rise has lasted."""
        usual = median(self._values) if len(self._values) >= WINDOW // 4 else math.inf
        if value > self.factor * usual:
            self._spikes += 1
        else:
            self._spikes = 0
            self._values.append(value)
        return self._spikes >= PATIENCE

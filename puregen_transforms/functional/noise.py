"""Counter-based Gaussian noise: a function of (seed, sample id, stage, step) and nothing else.

Philox4x32-10 (Salmon et al., SC 2011) on integer tensors, then Box-Muller. There is no state to
advance, so batch size, order, worker and process cannot change what a sample receives, and the
same integers come out on CPU and GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

STEPS_OF_A_STAGE = 1 << 16
"""More steps than any one chain has."""


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10.

    Args:
        counter: four int64 tensors that broadcast together, values in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        Four int64 tensors of the broadcast shape, uniform over [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2**64, so both of its 32-bit halves are still exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def keyed_normal(shape: torch.Size, *, seed: int, sample_ids: Tensor, stage: int, step: int) -> Tensor:
    """Standard normal values for a batch.

    Args:
        shape: (N, ...); the values of sample i depend on its id and shape[1:], not on N or i.
        seed: any integer; taken modulo 2**64.
        sample_ids: (N,) int64, on the device where the noise is wanted.
        stage: which stage of a purifier asks, in [0, 256).
        step: which step of that stage, in [0, 2**24).

    Returns:
        `shape` float32 on the device of `sample_ids`.
    """
    if not (0 <= stage < 1 << 8 and 0 <= step < 1 << 24):
        raise ValueError(f"Expected stage in [0, 256) and step in [0, 2**24), but got {stage} and {step}.")
    if sample_ids.shape != shape[:1]:
        raise ValueError(f"Expected {shape[0]} sample ids, but got shape {tuple(sample_ids.shape)}.")
    size = math.prod(shape[1:])
    block = torch.arange(-(-size // 4), device=sample_ids.device)[None]  # (1, B): 4 values a block
    ids = sample_ids[:, None]  # (N, 1)
    when = torch.full_like(block[:, :1], stage << 24 | step)
    words = philox((block, when, ids & _WORD, (ids >> 32) & _WORD), (seed & _WORD, (seed >> 32) & _WORD))
    return torch.stack(_box_muller(*words), dim=2).flatten(1)[:, :size].reshape(shape)


def _box_muller(r0: Tensor, r1: Tensor, r2: Tensor, r3: Tensor) -> list[Tensor]:
    # (r + 1/2) / 2**32 is never 0, so the logarithm is finite.
    u0, u1, u2, u3 = ((r.float() + 0.5) * 2.0**-32 for r in (r0, r1, r2, r3))
    radius0, radius1 = (-2 * u0.log()).sqrt(), (-2 * u2.log()).sqrt()
    angle0, angle1 = 2 * math.pi * u1, 2 * math.pi * u3
    return [radius0 * angle0.cos(), radius0 * angle0.sin(), radius1 * angle1.cos(), radius1 * angle1.sin()]


@dataclass(frozen=True)
class KeyedNoise:
    """`keyed_normal` with everything but the step fixed: the noise of one stage for one batch.

    Args:
        seed: of the run.
        sample_ids: (N,) int64.
        stage: position of the stage in its purifier.
        first_step: added to every step; see `within`.
    """

    seed: int
    sample_ids: Tensor
    stage: int = 0
    first_step: int = 0

    def __call__(self, step: int, images: Tensor) -> Tensor:
        """Noise shaped and placed like `images`, (N, C, H, W)."""
        ids = self.sample_ids.to(images.device)
        return keyed_normal(images.shape, seed=self.seed, sample_ids=ids, stage=self.stage, step=self.first_step + step)

    def of(self, chosen: Tensor) -> KeyedNoise:
        """The same noise for some of the samples: (N,) mask or (M,) positions."""
        return replace(self, sample_ids=self.sample_ids[chosen.to(self.sample_ids.device)])

    def within(self, index: int) -> KeyedNoise:
        """The noise of stage `index` inside this stage; stages inside stages share the range of steps."""
        return replace(self, first_step=self.first_step + index * STEPS_OF_A_STAGE)

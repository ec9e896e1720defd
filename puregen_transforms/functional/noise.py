"""Counter-based Gaussian noise: a function of (seed, sample id, stage, step) and nothing else.

Philox4x32 (Salmon et al., SC 2011) on integer tensors, then a table of normal quantiles. There is no state
to advance, so batch size, order, worker and process cannot change what a sample receives, and the same
values, to the last bit, come out on CPU and GPU. A device without exact 64-bit integers has them from the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from puregen_transforms.functional.fallback import device_for

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 7
"""The fewest with which Salmon et al. found no failure in BigCrush; they take 10 to be on the safe side."""

_LEVELS = 1 << 16

_BLOCKS_AT_ONCE = 1 << 17
"""Of an image: while they are drawn, a block takes a hundred bytes and more."""

STEPS_OF_A_STAGE = 1 << 16
"""More steps than any one chain has."""


class Window(NamedTuple):
    """Where a part of images lies in the whole ones, in pixels."""

    top: int
    left: int
    height: int
    """Of the whole images."""
    width: int


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int], rounds: int = _ROUNDS
) -> tuple[Tensor, ...]:
    """Encrypt counters by Philox4x32, a random function of counter and key.

    Args:
        counter: four int64 tensors that broadcast together, values in [0, 2**32).
        key: two integers in [0, 2**32).
        rounds: of mixing.

    Returns:
        Four int64 tensors of the broadcast shape, uniform over [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # An int64 product wraps modulo 2**64, so both of its 32-bit halves are still exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def keyed_normal(
    shape: torch.Size, *, seed: int, sample_ids: Tensor, stage: int, step: int, window: Window | None = None
) -> Tensor:
    """Draw standard normal values for a batch, in 2**16 equally likely levels; the outermost are at 4.3.

    Args:
        shape: (N, ...); the values of sample i depend on its id and shape[1:], not on N or i.
        seed: any integer; taken modulo 2**64.
        sample_ids: (N,) int64, on the device where the noise is wanted.
        stage: which stage of a purifier asks, in [0, 256).
        step: which step of that stage, in [0, 2**24).
        window: gives (N, C, H, W) values the place in larger images whose values they are.

    Returns:
        `shape` float32 on the device of `sample_ids`.
    """
    if not (0 <= stage < 1 << 8 and 0 <= step < 1 << 24):
        raise ValueError(f"Expected stage in [0, 256) and step in [0, 2**24), but got {stage} and {step}.")
    if sample_ids.shape != shape[:1]:
        raise ValueError(f"Expected {shape[0]} sample ids, but got shape {tuple(sample_ids.shape)}.")
    able = device_for(_try_out, sample_ids.device, "the noise, in 64-bit integers")
    ids, when = sample_ids.to(able), stage << 24 | step
    if window is None:
        return _draw(math.prod(shape[1:]), seed, ids, when).reshape(shape).to(sample_ids.device)
    return _draw_in(window, shape, seed, ids, when).to(sample_ids.device)


def _try_out(device: torch.device) -> Tensor:
    return _draw(32, -1, torch.tensor([-1, 1 << 40], device=device), 1)


def _draw(size: int, seed: int, sample_ids: Tensor, when: int) -> Tensor:
    """Draw (N, size) float32 values, on the device of the ids."""
    blocks = -(-size // 8)  # 8 values a block
    if blocks <= _BLOCKS_AT_ONCE:
        return _draw_blocks(torch.arange(blocks, device=sample_ids.device), seed, sample_ids, when)[:, :size]
    drawn = torch.empty(len(sample_ids), size, device=sample_ids.device)
    for piece in torch.arange(blocks, device=sample_ids.device).split(_BLOCKS_AT_ONCE):
        start = 8 * int(piece[0])
        own = drawn[:, start : start + 8 * len(piece)]
        own.copy_(_draw_blocks(piece, seed, sample_ids, when)[:, : own.shape[1]])
    return drawn


def _draw_in(window: Window, shape: torch.Size, seed: int, sample_ids: Tensor, when: int) -> Tensor:
    """Draw (N, C, H, W) values of a window, row by row: a row's first value may lie anywhere in its block."""
    channels, height, width = shape[1:]
    rows = torch.arange(channels, device=sample_ids.device)[:, None] * window.height + window.top
    rows = rows + torch.arange(height, device=sample_ids.device)
    starts = rows.flatten() * window.width + window.left
    count = (width + 14) // 8
    blocks = starts[:, None] // 8 + torch.arange(count, device=sample_ids.device)
    places = starts[:, None] % 8 + torch.arange(width, device=sample_ids.device)
    drawn = torch.empty(len(sample_ids), len(starts), width, device=sample_ids.device)
    at_once = max(1, _BLOCKS_AT_ONCE // count)
    for start in range(0, len(starts), at_once):
        some = slice(start, start + at_once)
        values = _draw_blocks(blocks[some].flatten(), seed, sample_ids, when).view(len(sample_ids), -1, 8 * count)
        drawn[:, some] = values.gather(2, places[some].expand(len(sample_ids), -1, -1))
    return drawn.view(shape)


def _draw_blocks(blocks: Tensor, seed: int, sample_ids: Tensor, when: int) -> Tensor:
    """Draw the values of some blocks: (B,) numbers -> (N, 8 * B)."""
    block = blocks[None]  # (1, B)
    ids = sample_ids[:, None]  # (N, 1)
    whens = torch.full_like(block[:, :1], when)
    words = philox((block, whens, ids & _WORD, (ids >> 32) & _WORD), (seed & _WORD, (seed >> 32) & _WORD))
    packed = torch.empty(*words[0].shape, 4, dtype=torch.int32, device=sample_ids.device)
    for index, word in enumerate(words):
        packed[..., index] = word
    # Two levels a word, the low half first: the halves are next to each other in memory (little-endian).
    levels = packed.view(torch.int16).to(torch.int32).bitwise_and_(_LEVELS - 1)
    values = _quantiles(sample_ids.device).index_select(0, levels.flatten())
    return values.view(levels.flatten(1).shape)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Compute the middle of each level of a standard normal, scaled to variance 1: (2**16,) float32."""
    # Made on the CPU, so that every device has the same bits.
    middles = torch.special.ndtri((torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS)
    return (middles / middles.square().mean().sqrt()).float().to(device)


@dataclass(frozen=True)
class KeyedNoise:
    """`keyed_normal` with everything but the step fixed: the noise of one stage for one batch.

    Args:
        seed: of the run.
        sample_ids: (N,) int64.
        stage: position of the stage in its purifier.
        first_step: added to every step; see `within`.
        window: see `inside`.
    """

    seed: int
    sample_ids: Tensor
    stage: int = 0
    first_step: int = 0
    window: Window | None = None

    def __call__(self, step: int, images: Tensor) -> Tensor:
        """Draw noise shaped and placed like `images`, (N, C, H, W)."""
        ids = self.sample_ids.to(images.device)
        return keyed_normal(
            images.shape,
            seed=self.seed,
            sample_ids=ids,
            stage=self.stage,
            step=self.first_step + step,
            window=self.window,
        )

    def for_samples(self, chosen: Tensor) -> KeyedNoise:
        """Select the noise of some of the samples: (N,) mask or (M,) positions."""
        return replace(self, sample_ids=self.sample_ids[chosen.to(self.sample_ids.device)])

    def within(self, index: int) -> KeyedNoise:
        """Return the noise of stage `index` inside this stage; stages inside stages share the range of steps."""
        return replace(self, first_step=self.first_step + index * STEPS_OF_A_STAGE)

    def inside(self, window: Window) -> KeyedNoise:
        """Return the noise of a part of the images: the same values that the whole ones have there."""
        return replace(self, window=window)

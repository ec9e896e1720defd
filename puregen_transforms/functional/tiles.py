"""Cut images that are too large for the memory into overlapping tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """A stretch of an image's height or width."""

    start: int
    stop: int

    @property
    def of(self) -> slice:
        """The same, to index with."""
        return slice(self.start, self.stop)

    def within(self, other: Span, *, divided_by: int = 1) -> slice:
        """Index this stretch in a map of another that holds it, whose side is so many times smaller."""
        return slice((self.start - other.start) // divided_by, (self.stop - other.start) // divided_by)


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Args:
        rows: that are the tile's own: tiles cover each pixel once.
        columns: the same.
        seen_rows: that a network is given: the own ones, and at least a margin around them inside the image.
        seen_columns: the same.
    """

    rows: Span
    columns: Span
    seen_rows: Span
    seen_columns: Span

    def seen(self, images: Tensor) -> Tensor:
        """Cut (N, C, H, W) images down to what is seen."""
        return images[..., self.seen_rows.of, self.seen_columns.of]


def tiles_of(height: int, width: int, *, largest: int, margin: int, multiple: int) -> list[Tile]:
    """Cut an image into tiles; one tile if it is small enough.

    Args:
        height: of the image, in pixels.
        width: of the image.
        largest: pixels of a tile, with what it sees around its own.
        margin: pixels around a tile's own that are seen, too.
        multiple: of which the borders between tiles are; the margin has to be one.
    """
    if height * width <= largest:
        whole = Span(0, height), Span(0, width)
        return [Tile(*whole, *whole)]
    longest = isqrt(largest) - 2 * margin
    cut = product(*(_spans(side, longest=longest, margin=margin, multiple=multiple) for side in (height, width)))
    return [Tile(rows, columns, seen_rows, seen_columns) for (rows, seen_rows), (columns, seen_columns) in cut]


def ramps(tile: Tile, height: int, width: int, *, margin: int) -> Tensor:
    """Weigh the pixels that a tile sees: (h, w) float32; over the places where tiles overlap, weights add up to 1.

    Args:
        tile: of an image.
        height: of the image.
        width: of the image.
        margin: that it was cut with.
    """
    down = _ramp(tile.rows, tile.seen_rows, height, margin)
    across = _ramp(tile.columns, tile.seen_columns, width, margin)
    return down[:, None] * across


def _spans(length: int, *, longest: int, margin: int, multiple: int) -> Iterator[tuple[Span, Span]]:
    """Yield stretches about as long as each other, each alone and with what is seen around it.

    All that is seen is of one length, if `length` is a multiple: memory that one size leaves behind fits the next.
    """
    shortest = -(-2 * margin // multiple) * multiple  # the weights of three tiles must not meet
    count = -(-length // max(shortest, longest // multiple * multiple))
    step = max(shortest, -(-length // count // multiple) * multiple)
    starts = range(0, length, step)
    seen = step + margin * min(2, len(starts) - 1)  # of two, each has a margin on one side alone
    last_start = max(0, (length - seen) // multiple * multiple)
    for start in starts:
        own = Span(start, min(length, start + step))
        seen_start = min(max(0, start - margin), last_start)
        seen_stop = length if seen_start == last_start else seen_start + seen
        yield own, Span(seen_start, seen_stop)


def _ramp(own: Span, seen: Span, length: int, margin: int) -> Tensor:
    places = torch.arange(seen.start, seen.stop, dtype=torch.float32) + 0.5
    weights = torch.ones_like(places)
    if own.start > 0:
        weights = ((places - own.start) / (2 * margin) + 0.5).clamp(0, 1) * weights
    if own.stop < length:
        weights = ((own.stop - places) / (2 * margin) + 0.5).clamp(0, 1) * weights
    return weights

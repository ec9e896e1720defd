"""The detector of stamps: windows that are equal, byte for byte, at one place in images of different pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.mapped import cut, is_in_file
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.look_alikes import count_pictures, odd_numbers, small_pictures
from puregen_transforms.detection.mark_report import read_images, report_marks
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.row_parts import join_parts

SIDE = 3
"""Of a window, in pixels."""

LEAST_CARRIERS = 4
"""Different pictures that must have the window."""

LEAST_CONTRAST = 16
"""Between the pixels of a window, in one channel: flat windows, such as of white backgrounds, are equal by nature."""

LEAST_RATIO = 3.0
"""How much more often than at any other place a window must occur; the edge of a pen stroke may be anywhere."""

SIGNIFICANCE = 1e-3
"""Expected number of natural windows of the set with as many carriers as a stamp."""

_SAME_MARK = 0.5
_COMPARED, _MOST_RUNS = 4, 2000
_READ_AT_ONCE, _COMPARED_AT_ONCE = 64, 64
_STRIP_BYTES = 2**25
"""Of rows of pixels that are read from a file at once."""

_COUNTED_PLACES = 1000
"""At which windows of two or three images are counted, too."""


Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Stamps(Detector):
    """Flag images that share a stamp: windows of 3x3 pixels that are equal at one place in different pictures.

    Natural images do not agree in 27 bytes, unless they are flat or show the same picture. In sets of simple images,
    such as writing, some do: windows that other images have elsewhere do not count, nor do those with no more carriers
    than chance gives in this set. Labels are used as evidence alone (`weigh_labels`): a stamp that images of all
    classes carry, and whose labels fit the pictures, such as a watermark, is a mark of the report and not flagged.

    A score is by what factor a stamp is commoner than asked for, less 1, and 0 without a stamp. It sees only stamps
    that cover what is below, at one place, and that no compression has touched since; `Patches` sees others.
    """

    version: ClassVar[int] = 2

    uses: ClassVar[frozenset[str]] = frozenset({"labels"})

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Compare all windows at each place.

        Raises:
            ValueError: too few images, too small ones or of several sizes, or one that cannot be read.
        """
        images, labels, order = read_images(suspects, smallest=SIDE)
        found = []
        for stamp in find_stamps(images, small_pictures(images), progress=suspects.progress):
            picture, top, left = stamp.picture(images)
            rows, scores = torch.from_numpy(stamp.rows), torch.zeros(len(images))
            scores[rows] = stamp.ratio / LEAST_RATIO - 1
            found.append((Mark(kind="stamp", rows=rows, picture=picture, place=(top, left), ratio=stamp.ratio), scores))
        return report_marks(suspects, order, images, labels, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamp:
    """Windows that the same images have.

    Args:
        rows: (n,) int64 images with one of them, increasing.
        places: (down, right) of each window's upper left corner.
        values: hash of each window.
        most: how many of the images have the same window.
        ratio: of these to those that have a window of the stamp at any one other place, and one.
    """

    rows: Ints
    places: tuple[tuple[int, int], ...]
    values: tuple[int, ...]
    most: int = 0
    ratio: float = 0.0

    def picture(self, images: Tensor) -> tuple[Tensor, int, int]:
        """Cut the stamp out of the images that have it.

        Returns:
            (4, h, w) uint8 red, green, blue and opacity; and its first row and column.
        """
        canvas = torch.zeros(4, *images.shape[-2:], dtype=torch.uint8)
        for (down, right), row in self._examples(images):
            part = (slice(None), slice(down, down + SIDE), slice(right, right + SIDE))
            canvas[:3][part] = images[row][part]
            canvas[3:][part] = 255
        downs, rights = ([place[axis] for place in self.places] for axis in (0, 1))
        top, left = min(downs), min(rights)
        return canvas[:, top : max(downs) + SIDE, left : max(rights) + SIDE], top, left

    def _examples(self, images: Tensor) -> Iterator[tuple[tuple[int, int], int]]:
        for place, value in zip(self.places, self.values, strict=True):
            yield place, self._example(images, place, value)

    def _example(self, images: Tensor, place: tuple[int, int], value: int) -> int:
        down, right = place
        for part in cut(len(self.rows), _COMPARED_AT_ONCE):
            carriers = images[torch.from_numpy(self.rows[part])]
            (own,) = next(window_hashes(carriers[..., right : right + SIDE], range(down, down + 1)))
            if (own == value).any():
                return int(self.rows[part][own == value][0])
        raise AssertionError("a stamp has carriers of each of its windows")


def find_stamps(images: Tensor, thumbnails: Tensor, *, progress: Progress = silent) -> list[Stamp]:
    """Find windows that several images share at a place and nowhere else, those of most images first.

    Args:
        images: (N, 3, H, W) uint8.
        thumbnails: (N, D) of `small_pictures`.
        progress: told what is being done.
    """
    places = range(images.shape[-2] - SIDE + 1)
    every = -(-len(places) * (images.shape[-1] - SIDE + 1) // _COUNTED_PLACES)
    runs: list[Stamp] = []
    chance: list[Stamp] = []
    for strip in strips(images, places):
        for right in range(len(strip.hashes)):
            counted = (strip.down * len(strip.hashes) + right) % every == 0
            for run in _runs(strip, right, least=2 if counted else LEAST_CARRIERS):
                pictures = count_pictures(thumbnails[torch.from_numpy(run.rows)], most=LEAST_CARRIERS)
                if pictures == LEAST_CARRIERS:
                    runs.append(run)
                elif pictures > 1 and counted:
                    chance.append(run)
        progress("looking for equal windows", strip.down, len(places))
    stamps = _merged(_local(runs))
    least = _beyond_chance(chance, stamps, every)
    common = [stamp for stamp in stamps if stamp.most >= least]
    most = _most_elsewhere(images, common)
    rated = [replace(stamp, ratio=stamp.most / (1 + others)) for stamp, others in zip(common, most, strict=True)]
    return [stamp for stamp in rated if stamp.ratio >= LEAST_RATIO]


def _beyond_chance(chance: Sequence[Stamp], stamps: Sequence[Stamp], every: int) -> float:
    """Compute how many carriers no natural window of this set has.

    In sets of simple images, such as writing, different pictures do agree in windows by chance: in some of them two, in
    fewer three, and so on, each time by the same factor.

    Args:
        chance: windows of two or more pictures, and fewer than a stamp needs.
        stamps: what may be stamps; agreement among the images of one of them is left out.
        every: of so many places one was counted.
    """
    own = [frozenset(stamp.rows.tolist()) for stamp in stamps]
    agreeing = [frozenset(run.rows.tolist()) for run in chance]
    sizes = [len(rows) for rows in agreeing if not any(rows <= carriers for carriers in own)]
    pairs, more = len(sizes), sum(size > 2 for size in sizes)
    if not pairs:
        return LEAST_CARRIERS
    factor = min(0.9, (more + 0.5) / (pairs + 1))
    return 2 + math.log(SIGNIFICANCE / (pairs * every)) / math.log(factor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """All windows whose first row of pixels is the same.

    Args:
        down: the number of that row.
        pixels: its rows of pixels, each (N, 3, W) uint8.
        hashes: (W - 2, N) int64 of the windows.
    """

    down: int
    pixels: tuple[Tensor, ...]
    hashes: Ints

    def windows(self, rows: Tensor, right: int) -> Tensor:
        """Cut a window out of some images: (n, 3, SIDE, SIDE) uint8."""
        return torch.stack([own[rows, :, right : right + SIDE] for own in self.pixels], dim=2)


def window_hashes(images: Tensor, downs: range) -> Iterator[Ints]:
    """Hash every window, one row of places after the other; see `strips`."""
    return (strip.hashes for strip in strips(images, downs))


def strips(images: Tensor, downs: range) -> Iterator[Strip]:
    """Hash every window, one row of places after the other.

    Args:
        images: (N, 3, H, W) uint8.
        downs: first rows of pixels of the windows.
    """
    channels, rows, columns = odd_numbers(3 * SIDE, seed=0).view(3, SIDE).numpy()
    mixed: list[Ints] = []
    last: tuple[Tensor, ...] = ()
    for down, pixels in enumerate(_rows_of_pixels(images, downs.start, downs.stop + SIDE - 1), downs.start - SIDE + 1):
        own = (pixels[:, channel].numpy().T * number for channel, number in enumerate(channels))
        mixed = [*mixed[1 - SIDE :], sum(own, np.zeros((), np.int64))]  # (W, N) of the last three rows of pixels
        last = (*last[1 - SIDE :], pixels)
        if len(mixed) == SIDE:
            tall = sum((row * number for row, number in zip(mixed, rows, strict=True)), np.zeros((), np.int64))
            width = len(tall) - SIDE + 1
            parts = (tall[right : right + width] * columns[right] for right in range(SIDE))
            yield Strip(down=down, pixels=last, hashes=sum(parts, np.zeros((), np.int64)))


def _rows_of_pixels(images: Tensor, first: int, stop: int) -> Iterator[Tensor]:
    """Read rows of pixels of all images, each (N, 3, W) uint8; from a file, several in one pass."""
    if not is_in_file(images):
        yield from images[:, :, first:stop].unbind(2)
        return
    count, channels, _, width = images.shape
    at_once = max(1, _STRIP_BYTES // (count * channels * width))
    for top in range(first, stop, at_once):
        band = slice(top, min(top + at_once, stop))
        yield from join_parts(itemgetter((slice(None), slice(None), band)), images, _READ_AT_ONCE).unbind(2)


def _runs(strip: Strip, right: int, *, least: int) -> Iterator[Stamp]:
    """Yield the windows of one place with some contrast that at least so many images have."""
    hashes = strip.hashes[right]
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(starts, append=len(ordered))
    starts, lengths = starts[lengths >= least], lengths[lengths >= least]
    windows = strip.windows(torch.from_numpy(order[starts]), right).flatten(2).int()
    contrast = (windows.amax(2) - windows.amin(2)).amax(1).numpy()
    for number in np.flatnonzero(contrast >= LEAST_CONTRAST).tolist():
        rows = np.sort(order[starts[number] : starts[number] + lengths[number]])
        yield Stamp(rows=rows, places=((strip.down, right),), values=(int(ordered[starts[number]]),))


def _local(runs: Sequence[Stamp]) -> list[Stamp]:
    """Leave out windows that other images have at another place."""
    by_value: dict[int, list[Stamp]] = {}
    for run in sorted(runs, key=lambda run: -len(run.rows)):
        by_value.setdefault(run.values[0], []).append(run)
    return [
        run
        for run in runs
        if all(
            len(np.setdiff1d(other.rows, run.rows, assume_unique=True)) * LEAST_RATIO < len(run.rows)
            for other in by_value[run.values[0]][:_COMPARED]
        )
    ]


def _merged(runs: Sequence[Stamp]) -> list[Stamp]:
    """Join windows that the same images have."""
    merged: list[tuple[frozenset[int], list[Stamp]]] = []
    for run in sorted(runs, key=lambda run: (-len(run.rows), run.places))[:_MOST_RUNS]:
        rows = frozenset(run.rows.tolist())
        joined = next((mark for core, mark in merged if len(core & rows) >= _SAME_MARK * len(rows)), None)
        if joined is None:
            merged.append((rows, [run]))
        else:
            joined.append(run)
    return [
        Stamp(
            rows=np.unique(np.concatenate([run.rows for run in mark])),
            places=tuple(run.places[0] for run in mark),
            values=tuple(run.values[0] for run in mark),
            most=len(mark[0].rows),
        )
        for _, mark in merged
    ]


def _most_elsewhere(images: Tensor, stamps: Sequence[Stamp]) -> list[int]:
    """Count, for each stamp, the other images that have a window of it, at the place where most do."""
    most = [0] * len(stamps)
    if not stamps:
        return most
    values = np.unique(np.concatenate([np.asarray(stamp.values) for stamp in stamps]))
    for hashes in window_hashes(images, range(images.shape[-2] - SIDE + 1)):
        for right in np.flatnonzero(np.isin(hashes, values).any(1)).tolist():
            for number, stamp in enumerate(stamps):
                having = np.flatnonzero(np.isin(hashes[right], stamp.values))
                most[number] = max(most[number], len(np.setdiff1d(having, stamp.rows, assume_unique=True)))
    return most

"""The work that a data set is: to cut it into parts that are done again quickly, and to estimate the time."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import ceil, isqrt

import torch

from puregen_transforms import PureGen
from puregen_transforms._progress import duration
from puregen_transforms.purifier.batches import LEAST_BYTES_PER_PIXEL, default_batch_size
from puregen_transforms.purifier.device import choose_device
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.puregen_config import PureGenConfig
from puregen_transforms.purifier.stages import DiffusionStage, FilterStage, LangevinStage, Stage
from puregen_transforms.whole_sets.dataset_copy import PART_ROWS, DatasetCopy

PART_WORK = PART_ROWS * 32 * 32 * 150
"""Pixels times Langevin steps of a part: ten minutes on a core without matrix units."""

MOST_CHOSEN = 10_000
"""Parts, unless `part_rows` is asked for: each of a table is a file, and too many are slow to list."""

_DIFFUSION_CALL = 15
"""Langevin steps that take as long as a call of the noise predictor, about, with the packaged networks."""

_DENOISER_CALLS = 4
"""The same of both calls of the denoiser."""

_ADAPTIVE_ROUNDS = 3
"""Diffusion steps of "adaptive", as a multiple of its `ddpm_steps`: a second round has twice as many."""

_TIMED_STEPS = 3

_LARGEST_TIMED = 1536
"""Side in pixels of the largest image that is timed: it has several tiles, and a larger one has more of them."""

_MOST_TIMED = 1024
"""Images that are timed at once, which is a second's work where they are small."""


def calls_of(config: PureGenConfig) -> float:
    """Estimate the network calls of an image, counted in Langevin steps, from the options alone."""
    diffusion = _DIFFUSION_CALL * (config.ddpm_inference_steps or config.ddpm_steps or 0)
    if config.method == "adaptive":
        diffusion *= _ADAPTIVE_ROUNDS
    once = (config.ebm_steps or 0) + diffusion + _DENOISER_CALLS * config.uses_denoiser
    return (config.filter_fraction or 1) * (config.reps or 1) * once


def part_rows_for(source: DatasetCopy, config: PureGenConfig) -> int:
    """Choose the rows of a part of about `PART_WORK`, the same for every process and machine."""
    pixels = source.row_pixels()
    by_work = int(PART_WORK / max(1.0, sum(pixels) * calls_of(config)))
    least = ceil((source.images or 0) / max(1, len(pixels)) / MOST_CHOSEN)
    return min(PART_ROWS, max(1, by_work, least))


def images_at_once(purifier: PureGen, pixels: int) -> int:
    """Count the images of so many pixels that keep the machine busy: a batch, or on a CPU one for each thread."""
    place = choose_device(purifier.device)
    widest = max((getattr(stage, "bytes_per_pixel", 0) for stage in purifier.purifier.stages), default=0)
    batch = purifier.batch_size or default_batch_size(pixels * max(widest, LEAST_BYTES_PER_PIXEL), place)
    return batch * torch.get_num_threads() if place.type == "cpu" else batch


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate of how long the work will take.

    Args:
        images: still to be purified; None if that is not known.
        side: in pixels, of a square with the pixels of a typical image.
        seconds: for one image, in one process.
        processes: that share the work.
    """

    images: int | None
    side: int
    seconds: float
    processes: int = 1

    @property
    def total(self) -> float | None:
        """Seconds of the whole work; None if nobody knows how many images there are."""
        return None if self.images is None else self.images * self.seconds / self.processes

    @property
    def shown(self) -> float:
        """Seconds of the whole work, or of 1,000 images if nobody knows how many there are."""
        return 1000 * self.seconds / self.processes if self.total is None else self.total

    def __str__(self) -> str:
        count = "every 1,000" if self.images is None else f"{self.images:,}"
        return f"Estimate: {duration(self.shown)} for {count} images of about {self.side}x{self.side} pixels."


def estimate(source: DatasetCopy, purifier: PureGen, *, finished: int = 0, processes: int = 1) -> Estimate | None:
    """Time a few network calls at the size of a typical image; decoding and encoding are not counted.

    Args:
        source: of the images.
        purifier: ready to use: with its threshold, where its method has one.
        finished: images that an earlier run has done.
        processes: that share the work.

    Returns:
        None if no image can be read, or those looked at cannot be purified.
    """
    pixels = source.row_pixels()
    if not pixels:
        return None
    side = isqrt(sum(pixels) // len(pixels))
    try:
        seconds = seconds_of_an_image(purifier, side, most=source.images)
    except (ValueError, RuntimeError):  # too small for the networks, for example: the work itself will say so
        return None
    images = None
    if source.images and source.to_purify is not None:
        images = max(0, source.images - finished) * source.to_purify // source.images
    return Estimate(images=images, side=side, seconds=seconds, processes=processes)


def timed_images(purifier: PureGen, side: int, most: int | None) -> int:
    """Count the images that `seconds_of_an_image` times: as many as are purified at once, and not too many."""
    return max(1, min(images_at_once(purifier, side * side), _MOST_TIMED, most or _MOST_TIMED))


def seconds_of_an_image(purifier: PureGen, side: int, *, most: int | None = None) -> float:
    """Time a few network calls on images of so many pixels a side, and reckon up what one image takes.

    Args:
        purifier: ready to use.
        side: in pixels.
        most: images that there are; no more are timed.

    Raises:
        ValueError, RuntimeError: the networks do not take such images, or cannot be used.
    """
    whole, side = side, min(side, _LARGEST_TIMED)
    count = timed_images(purifier, side, most)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    share = purifier.config.filter_fraction or 1.0

    def seconds(stage: Stage) -> float:
        if isinstance(stage, FilterStage):
            return share * sum(map(seconds, stage.stages))
        short, factor = _shortened(stage)
        run = Purifier([short], device=choose_device(purifier.device), batch_size=purifier.batch_size)
        started = time.monotonic()
        run(images, sample_ids=torch.zeros(count, dtype=torch.int64), seed=0)
        return factor * (time.monotonic() - started)

    return sum(map(seconds, purifier.purifier.stages)) / count * (whole / side) ** 2


def _shortened(stage: Stage) -> tuple[Stage, float]:
    """Shorten a stage to a few of its network calls; also return how many times as long the whole one takes."""
    if isinstance(stage, LangevinStage):
        steps = min(_TIMED_STEPS, stage.config.steps)
        return replace(stage, config=replace(stage.config, steps=steps)), stage.config.steps / max(1, steps)
    if isinstance(stage, DiffusionStage) and stage.config.steps:
        calls = stage.config.inference_steps or stage.config.steps
        return replace(stage, config=replace(stage.config, inference_steps=1)), calls
    return stage, 1.0

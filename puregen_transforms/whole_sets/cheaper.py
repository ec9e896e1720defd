"""Name a cheaper way to purify, where the one that was chosen takes long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from puregen_transforms import PureGen
from puregen_transforms._progress import duration
from puregen_transforms.purifier.puregen_config import CHECKPOINTS, METHOD_OPTIONS, Method
from puregen_transforms.whole_sets.workload import Estimate, calls_of, seconds_of_an_image, timed_images

NAMED_FROM = 600.0
"""Seconds of work from which on a cheaper way is looked for."""

LONGEST_TIMING = 60.0
"""Seconds that timing a cheaper way may take, about."""

LEAST_GAIN = 2.0
"""How many times as long the chosen way must take for a cheaper one to be worth a sentence."""


@dataclass(frozen=True, kw_only=True)
class Cheaper:
    """A way to purify that takes less time than others, and does less.

    Args:
        options: of the `PureGen`.
        words: the way, in words.
        gives_up: what is worse about it, in words.
        instead_of: methods in whose place it can stand.
        smallest_side: of the images that it is named for, in pixels.
    """

    options: Mapping[str, Any]
    words: str
    gives_up: str
    instead_of: tuple[Method, ...]
    smallest_side: int = 1

    def purifier(self, chosen: PureGen) -> PureGen:
        """Make it, to run where and as the chosen one does, and with its networks."""
        used = METHOD_OPTIONS[self.options["method"]]
        own = {name: getattr(chosen.config, name) for name in CHECKPOINTS if name in used}
        return PureGen(**{**own, **self.options}, dtype=chosen.config.dtype, **chosen.runtime)

    @property
    def flags(self) -> str:
        """Write it in options of `puregen purify`."""
        return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in self.options.items())


CHEAPER = (
    Cheaper(
        options={"method": "onestep"},
        words="noise of either sign, and a call of a small network for each",
        gives_up="it smooths fine texture",
        instead_of=("ebm", "ddpm", "naive", "reps"),
        smallest_side=128,
    ),
    Cheaper(
        options={"method": "ddpm", "ddpm_solver": "ddim", "ddpm_inference_steps": 1},
        words="a single call of the diffusion network",
        gives_up="it leaves more of a trigger in the images",
        instead_of=("ebm", "ddpm", "naive", "reps"),
    ),
)
"""The best first; what each gives up is measured by `benchmarks/photograph_quality.py` and `purify_quality.py`.

Methods that act on few images, by their energy, and those for sets made unlearnable have no substitute here.
"""


def cheaper_than(chosen: PureGen, expected: Estimate) -> str | None:
    """Say what a cheaper way would take, timed like the chosen one, and what it gives up.

    Returns:
        A sentence; None where the work is short, or nothing is much cheaper.
    """
    if expected.shown < NAMED_FROM:
        return None
    for one in CHEAPER:
        if chosen.config.method not in one.instead_of or expected.side < one.smallest_side:
            continue
        seconds = _timed(one.purifier(chosen), chosen, expected)
        if seconds is not None and seconds * LEAST_GAIN <= expected.seconds:
            other = duration(replace(expected, seconds=seconds).shown)
            return f"Cheaper: {one.words} ({one.flags}) would take {other}, but {one.gives_up}."
    return None


def _timed(other: PureGen, chosen: PureGen, expected: Estimate) -> float | None:
    """Time another purifier on images of the same size; None if that takes long, or it cannot purify them."""
    ahead = calls_of(other.config) / max(1.0, calls_of(chosen.config))
    if expected.seconds * timed_images(other, expected.side, expected.images) * ahead > LONGEST_TIMING:
        return None
    try:
        return seconds_of_an_image(other, expected.side, most=expected.images)
    except (ValueError, RuntimeError, OSError):  # images too small for its network, or a network that is not there
        return None

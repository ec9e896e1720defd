"""How suspicious and typical images move under purification, and what to do about the suspicious ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from puregen_transforms._progress import Progress, silent
from puregen_transforms.detection.verdict import DOUBTFUL, MADE_UNLEARNABLE, POISONED, Verdict
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.functional.langevin import langevin, temperature_for
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.inspection.gauge import PatternGauge
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.purifier.batches import default_batch_size, run_in_batches
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.puregen_config import Method, PureGenConfig
from puregen_transforms.transforms.content import content_ids

MARKS = (0, 5, 10, 20, 40, 75, 100, 150, 200, 250, 300)
"""Langevin steps after which the images are looked at."""

DEFAULT = PureGenConfig().langevin or LangevinConfig()
DEFAULT_STEPS, DEFAULT_METHOD = DEFAULT.steps, PureGenConfig().method

REMAINING = 0.25
"""Share of a pattern that may be left for purification alone to be recommended."""

_SAMPLE, _LEAST_SAMPLE = 32, 4
_SAMPLED_PIXELS = 2**18
_JPEG_QUALITIES = (50, 25)
_DESCENT_STEPS = 40
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What a group of images goes through.

    Args:
        distance: after each of `MARKS`, median over the images of the root mean square distance from
            where they started, in units of 1/255.
        energy: after each of `MARKS`, the 5, 25, 50, 75 and 95 % quantiles of the energies.
    """

    distance: tuple[float, ...]
    energy: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What one way of purifying does to the sample.

    Args:
        words: what it is called.
        energy: median energy of the suspicious images afterwards.
        usual: 25 and 75 % quantiles of the energies of typical images afterwards.
        left: share of the common pattern left in the suspicious images; None where it cannot be measured.
        cost: median root mean square change of typical images, in units of 1/255.
    """

    words: str
    energy: float
    usual: tuple[float, float]
    left: float | None
    cost: float


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """Suspicious images against typical ones, on the way through Langevin steps.

    Args:
        suspicious: of the sample.
        typical: of as many random images that nothing was found in.
        left: after each of `MARKS`, share of the common pattern left in the suspicious images; empty
            where there is none, or too few images to measure it.
        treatments: comparison of ways to purify.
        rows: of the suspicious images.
        repaired: (N, 3, H, W) uint8, the suspicious images after the default number of steps.
    """

    suspicious: Curves
    typical: Curves
    left: tuple[float, ...]
    treatments: tuple[Treatment, ...]
    rows: tuple[int, ...]
    repaired: Tensor

    def back_in_range(self) -> int | None:
        """First number of steps after which the suspicious images look typical; None if there is none.

        Typical is a median energy no higher than the 75 % quantile of the typical images after as many
        steps, at every later mark too.
        """
        first = None
        for steps, own, usual in zip(MARKS, self.suspicious.energy, self.typical.energy, strict=True):
            if own[2] > usual[3]:
                first = None
            elif first is None:
                first = steps
        return first

    def pattern_gone(self) -> int | None:
        """First number of steps after which no more than `REMAINING` of the pattern is left."""
        return next((steps for steps, left in zip(MARKS, self.left, strict=False) if left <= REMAINING), None)


def sample_for(size: Sequence[int]) -> int:
    """Choose how many images of a (height, width) to purify: fewer of large ones, and none above 256x256 pixels.

    All of them together cost what 256 images of 32x32 pixels do at most, each through the last of `MARKS`.
    """
    fitting = _SAMPLED_PIXELS // max(1, size[0] * size[1])
    return min(_SAMPLE, fitting) if fitting >= _LEAST_SAMPLE else 0


@dataclass(frozen=True)
class Chain:
    """Langevin steps as `PureGen` takes them, stopped on the way.

    Args:
        network: of the chain; may be of low precision.
        measure: energies in float32.
        trained_size: side in pixels of the images the network was trained on.
        seed: of the noise.
    """

    network: FrozenEBM
    measure: FrozenEBM
    trained_size: int
    seed: int

    def stops(self, images: Tensor, ids: Tensor, marks: Sequence[int] = MARKS) -> list[Tensor]:
        """8-bit images after each of some numbers of steps.

        Args:
            images: (N, 3, H, W) in [-1, 1].
            ids: (N,) int64, decide the noise.
            marks: rising numbers of steps.
        """
        taken, x, found = 0, images, []
        for mark in marks:
            x = self._run(x, mark - taken, KeyedNoise(self.seed, ids, first_step=taken), DEFAULT)
            taken = mark
            found.append(to_uint8(x))
        return found

    def taken_away(self, images: Tensor) -> Tensor:
        """Compute what some steps without noise remove from (N, 3, H, W) images in [-1, 1]."""
        return images - self._run(images, _DESCENT_STEPS, None, LangevinConfig())

    def _run(self, images: Tensor, steps: int, noise: KeyedNoise | None, config: LangevinConfig) -> Tensor:
        def run(batch: Tensor, rows: Tensor) -> Tensor:
            return langevin(
                batch,
                self.network,
                steps=steps,
                step_size=config.step_size,
                temperature=temperature_for(images, config.temperature, trained_size=self.trained_size),
                noise=noise.for_samples(rows) if noise else _never,
                noise_scales=None if noise else [0.0] * steps,
            )

        return _in_batches(run, images, self.network)

    def energies(self, images: Tensor) -> Tensor:
        """Energies of uint8 images, (N,) on the CPU."""
        return _in_batches(lambda batch, _: self.measure(to_signed(batch)), images, self.measure).cpu()


def _in_batches(function: Callable[[Tensor, Tensor], Tensor], images: Tensor, network: FrozenEBM) -> Tensor:
    """Apply `function(images, rows)` as `PureGen` would, so that the results are its own."""
    size = default_batch_size(network.bytes_per_pixel * images.shape[-2] * images.shape[-1], network.device)
    rows = torch.arange(len(images), device=images.device)
    return run_in_batches(function, images, rows, device=network.device, batch_size=size)


def _never(step: int, images: Tensor) -> Tensor:
    raise AssertionError("the scales are 0")


def study(
    chain: Chain,
    suspicious: Tensor,
    typical: Tensor,
    *,
    rows: Sequence[int],
    gauge: PatternGauge | None,
    at_once: int,
    progress: Progress = silent,
) -> Dynamics:
    """Purify both groups and compare them on the way.

    Args:
        chain: the purifier.
        suspicious: (N, 3, H, W) uint8 on the chain's device.
        typical: (M, 3, H, W) uint8.
        rows: of the suspicious images.
        gauge: of the common pattern; None if there is none.
        at_once: images between two reports of progress.
        progress: told about images done.
    """
    start, count = torch.cat([suspicious, typical]), len(suspicious)
    repaired: list[Tensor] = []
    parts: list[list[_Measured]] = []
    progress("purifying a sample", 0, len(start))
    for batch in start.split(at_once):
        # Noise by content, as `PureGen` has it, so that the images shown are those it gives.
        stops = chain.stops(to_signed(batch), content_ids(batch).to(batch.device))
        repaired.append(stops[MARKS.index(DEFAULT_STEPS)].cpu())
        parts.append([_measure(chain, gauge, batch, after) for after in (*stops, *_compressed(batch))])
        progress("purifying a sample", sum(map(len, repaired)), len(start))
    joined = [_Measured(*map(torch.cat, zip(*of_batches, strict=True))) for of_batches in zip(*parts, strict=True)]
    own, usual = ([measured.of(rows) for measured in joined] for rows in (slice(count), slice(count, None)))
    left = [_left(gauge, *pair) for pair in zip(own, usual, strict=True)]

    def treatment(words: str, place: int) -> Treatment:
        low, high = usual[place].energy.quantile(torch.tensor([0.25, 0.75])).tolist()
        return Treatment(
            words=words,
            energy=float(own[place].energy.median()),
            usual=(low, high),
            left=left[place],
            cost=float(usual[place].distance.median()),
        )

    treatments = [treatment(f"ebm, {n} steps", MARKS.index(n)) for n in (DEFAULT_STEPS, 2 * DEFAULT_STEPS)]
    treatments += [treatment(f"jpeg, quality {q}", len(MARKS) + place) for place, q in enumerate(_JPEG_QUALITIES)]
    return Dynamics(
        suspicious=_curves(own[: len(MARKS)]),
        typical=_curves(usual[: len(MARKS)]),
        left=tuple(share for share in left[: len(MARKS)] if share is not None),
        treatments=tuple(treatments),
        rows=tuple(rows),
        repaired=torch.cat(repaired)[:count],
    )


class _Measured(NamedTuple):
    """What purification has done to images, a number for each: the images themselves would fill the memory.

    Args:
        distance: (N,) root mean square change, in units of 1/255.
        energy: (N,) afterwards.
        removed: (N,) how much of the common pattern went; see `PatternGauge`.
    """

    distance: Tensor
    energy: Tensor
    removed: Tensor

    def of(self, rows: slice) -> _Measured:
        return _Measured(*(values[rows] for values in self))


def _measure(chain: Chain, gauge: PatternGauge | None, before: Tensor, after: Tensor) -> _Measured:
    change = before.float() - after.float()
    return _Measured(
        distance=change.square().mean((1, 2, 3)).sqrt().cpu(),
        energy=chain.energies(after),
        removed=torch.zeros(len(change)) if gauge is None else gauge.amounts(change).cpu(),
    )


def _compressed(images: Tensor) -> list[Tensor]:
    """Compress images at each of `_JPEG_QUALITIES`."""
    return [jpeg(images, quality) for quality in _JPEG_QUALITIES]


def _left(gauge: PatternGauge | None, own: _Measured, usual: _Measured) -> float | None:
    return gauge.left(own.removed, usual.removed) if gauge is not None and gauge.usable else None


def _curves(measured: Sequence[_Measured]) -> Curves:
    levels = torch.tensor(QUANTILES)
    return Curves(
        distance=tuple(float(stop.distance.median()) for stop in measured),
        energy=tuple(tuple(stop.energy.quantile(levels).tolist()) for stop in measured),
    )


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do with the set.

    Args:
        action: "nothing", "look", "remove" or "weaken".
        steps: Langevin steps of `PureGen`, for the images that stay, or for all where none can be spared.
        sentences: why, in plain words.
        options: other options of `PureGen` that the steps were measured with, where they are not its defaults.
        method: of `PureGen`.
    """

    action: str
    steps: int
    sentences: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    method: Method = DEFAULT_METHOD

    @property
    def call(self) -> str:
        """The purifier in Python."""
        steps = {} if self.steps == DEFAULT_STEPS else {"ebm_steps": self.steps}
        method = {} if self.method == DEFAULT_METHOD else {"method": self.method}
        options = {**method, **steps, **self.options}
        return f"PureGen({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def advise(verdict: Verdict, dynamics: Dynamics | None = None, *, options: Mapping[str, Any] | None = None) -> Advice:
    """Turn a verdict into a recommendation.

    Args:
        verdict: of the set.
        dynamics: of a sample of what was found; None where nothing was purified.
        options: see `Advice`.
    """
    if verdict.level == MADE_UNLEARNABLE:
        other = (
            "Take the set from another source if you can: no image can be told from the others, so there is nothing to "
            "leave out."
        )
        weaken = (
            'Otherwise weaken the traces in all images: purify with method="eclipse". Then train on the copy with '
            "`eclipse_compensation` as a transform, which covers up what is left of them."
        )
        # The energy network, which options name, has no part in it.
        options = {name: value for name, value in (options or {}).items() if name != "checkpoint"}
        advice = Advice(action="weaken", steps=DEFAULT_STEPS, sentences=(other, weaken), method="eclipse")
    elif verdict.level == POISONED:
        advice = _advise_to_remove(verdict, dynamics)
    elif verdict.level == DOUBTFUL:
        count = int(verdict.doubtful.sum())
        look = (
            f"Look at the {count:,} doubtful images before training on them; nothing proves that they are poisoned. "
            "Where that cannot tell, leave them out: images.csv lists them."
        )
        advice = Advice(action="look", steps=DEFAULT_STEPS, sentences=(look, _in_doubt(dynamics)))
    else:
        none = (
            "No search gives a reason to leave an image out. What an attack must look like to be missed by all of them "
            "is listed under “Not looked for”."
        )
        advice = Advice(action="nothing", steps=DEFAULT_STEPS, sentences=(none, _in_doubt(dynamics)))
    return replace(advice, options=options or {})


def _in_doubt(dynamics: Dynamics | None) -> str:
    """Say what purification is good for where no poison was recognized."""
    weaken = "If you do not trust the source, purify all: this weakens faint patterns, but leaves visible ones"
    if dynamics is None:
        return f"{weaken}."
    cost = dynamics.typical.distance[MARKS.index(DEFAULT_STEPS)]
    return f"{weaken}; {DEFAULT_STEPS} Langevin steps change typical images by {cost:.0f}/255 (root mean square)."


def _advise_to_remove(verdict: Verdict, dynamics: Dynamics | None) -> Advice:
    count, images = int(verdict.flagged.sum()), len(verdict)
    share = f"{count / images:.2%} of the set"
    remove = (
        f"Leave out the {count:,} images held for poisoned ({share}): images.csv lists them, and puregen clean writes "
        "a copy without them."
    )
    rest = "Of the rest, purify what you do not trust: that weakens faint patterns that no search has found."
    if dynamics is None:
        return Advice(action="remove", steps=DEFAULT_STEPS, sentences=(remove, rest))
    in_range, gone, last = dynamics.back_in_range(), dynamics.pattern_gone(), MARKS[-1]
    if in_range is None:
        by_energy = f"even after {last} Langevin steps their energies stay above those of images purified as long"
    elif in_range == 0:
        by_energy = "their energies are usual from the start"
    else:
        by_energy = (
            f"after {in_range} Langevin steps their median energy is within the usual range of images purified as long"
        )
    if in_range is not None and gone is not None:
        steps = max(DEFAULT_STEPS, in_range, gone)
        spare = (
            f"Where no image can be spared, purify with {steps} Langevin steps: {by_energy}, and after {gone} no more "
            f"than {REMAINING:.0%} of what they share is left. Search the result again."
        )
        return Advice(action="remove", steps=steps, sentences=(remove, spare))
    if dynamics.left:
        left = (
            f"about {dynamics.left[MARKS.index(DEFAULT_STEPS)]:.0%} of what they share is left after {DEFAULT_STEPS} "
            f"steps, {dynamics.left[-1]:.0%} after {last}."
        )
    else:
        left = "what they share cannot be measured, so none of it may be taken for gone."
    alone = f"Do not rely on purification alone: {by_energy}, and {left}"
    return Advice(action="remove", steps=DEFAULT_STEPS, sentences=(remove, alone, rest))

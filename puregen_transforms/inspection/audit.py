"""Audit a possibly poisoned image data set: energies, shared perturbations, dynamics, and a verdict."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from puregen_transforms import __version__
from puregen_transforms.data.labels import Labels, class_indices
from puregen_transforms.functional.images import to_uint8
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.hub.ebm import EBMCheckpoint, load_ebm, resolve_ebm
from puregen_transforms.inspection.dynamics import MARKS, QUANTILES, Advice, Chain, Dynamics, advise, study
from puregen_transforms.inspection.judge import (
    OUTLIER,
    SUSPICIOUS,
    FoundPattern,
    GroupFinding,
    Judgement,
    judge,
)
from puregen_transforms.inspection.measure import ImageMeter, Progress, commonest_size
from puregen_transforms.inspection.statistics import PatternGauge, as_many_as_fit, fit_gauge, robust_scores
from puregen_transforms.inspection.verdict import headline, notes, reasons
from puregen_transforms.models.ebm_inference import InvariantEBM
from puregen_transforms.purifier.device import choose_device, choose_dtype

LEAST_IMAGES = 10
_AVERAGED, _LEAST_AVERAGED = 512, 32
_DESCENDED = 64


@dataclass(frozen=True, kw_only=True)
class FlaggedImage:
    """An image to look at.

    Args:
        row: in the set.
        energy: raw; higher is more suspicious.
        score: robust standard deviations above the median of its class.
        class_name: None without a label.
        pattern: number of the shared pattern it carries, from 1; None if only its energy is unusual.
        cosine: with the pattern's direction.
    """

    row: int
    energy: float
    score: float
    class_name: str | None
    pattern: int | None = None
    cosine: float | None = None


@dataclass(frozen=True, kw_only=True)
class SharedPattern:
    """A perturbation that many images carry: an estimate of a trigger.

    Args:
        carriers: how many images carry it.
        by_class: how many of each class, most first; empty without labels.
        similarity: mean cosine between the directions of two carriers.
        estimate: (3, H, W) in units of 1/255: what a few noise-free Langevin steps take away from
            carriers, on average, less what they take away from typical images.
        excess: the same estimated from the images alone: what carriers have in common beyond other
            images of their classes, as far as their number lets it be told from chance.
    """

    carriers: int
    by_class: dict[str, int]
    similarity: float
    estimate: Tensor
    excess: Tensor


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What an audit found.

    Args:
        level: "suspicious", "unusual" or "nothing found".
        headline: the verdict in one sentence.
        reasons: why, one sentence each.
        images: how many were measured.
        size: height and width of those that were compared with each other.
        classes: most suspicious first; empty without labels.
        whole: the set as one group.
        patterns: shared perturbations, those of most images first.
        flagged: carriers, then images of unusual energy; most suspicious first.
        energies: (N,) raw; NaN where a row holds no image.
        scores: (N,) robust score of each energy within its class.
        pattern_of: (N,) number of the pattern each image carries, 0 for none.
        labels: (N,) or None.
        class_names: by label.
        typical_rows: images that nothing was found in, as used for comparison.
        dynamics: how the suspicious images move under purification.
        advice: what to do.
        notes: what was left out, and why.
        settings: checkpoint, its sha256, seed, versions and the like.
    """

    level: str
    headline: str
    reasons: tuple[str, ...]
    images: int
    size: tuple[int, int]
    classes: tuple[GroupFinding, ...]
    whole: GroupFinding
    patterns: tuple[SharedPattern, ...]
    flagged: tuple[FlaggedImage, ...]
    energies: Tensor
    scores: Tensor
    pattern_of: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    typical_rows: tuple[int, ...]
    dynamics: Dynamics
    advice: Advice
    notes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def suspicious_classes(self) -> tuple[str, ...]:
        """Names of the suspicious classes, the worst first."""
        return tuple(group.name for group in self.classes if group.level == SUSPICIOUS)

    def to_dict(self) -> dict[str, Any]:
        """Everything but pixels and the energies of unflagged images, JSON-ready."""
        dynamics = {"steps": list(MARKS), "energy_quantiles": list(QUANTILES), **asdict(self.dynamics)}
        del dynamics["repaired"]
        return {
            "level": self.level,
            "headline": self.headline,
            "reasons": list(self.reasons),
            "images": self.images,
            "size": list(self.size),
            "classes": [asdict(group) for group in self.classes],
            "whole": asdict(self.whole),
            "patterns": [
                {"carriers": pattern.carriers, "by_class": pattern.by_class, "similarity": pattern.similarity}
                for pattern in self.patterns
            ],
            "flagged": [asdict(image) for image in self.flagged],
            "dynamics": dynamics,
            "advice": {**asdict(self.advice), "call": self.advice.call},
            "notes": list(self.notes),
            "settings": self.settings,
        }


def inspect_images(
    images: Sequence[Any] | Tensor,
    labels: Labels | None = None,
    *,
    class_names: Sequence[str] = (),
    checkpoint: str | None = None,
    sample: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Inspection:
    """Audit a set of images for poison, with or without labels.

    Args:
        images: (N, C, H, W) tensor, or a sequence of images in any form `PureGen` takes, read by row as
            needed and never held as a whole; None stands for a missing image.
        labels: class of each image, as an index (negative where it has none) or a word; see `class_indices`.
        class_names: by index.
        checkpoint: of the energy network: catalogue name, "owner/name" or "owner/name@revision" on the Hub, or folder;
            None is the packaged default.
        sample: how many suspicious, and as many typical, images to purify.
        seed: of random choices and of the chain's noise.
        device: where to run; None is the accelerator that torch reports, else the CPU.
        batch_size: images in one network call; None chooses by their size.
        progress: told what is being done.

    Raises:
        ValueError: too few images, labels of another length or that are none, or an image that cannot be read.
        FloatingPointError: an energy is not finite.
    """
    if sample < 2:
        raise ValueError(f"Expected a `sample` of 2 images or more, but got {sample}.")
    indices, names = _classes(labels, len(images), class_names)
    found = resolve_ebm(checkpoint)
    audit = _Audit(images, found, choose_device(device), seed=seed, batch_size=batch_size, progress=progress)
    return audit.run(indices, names, sample)


def find_patterns(
    images: Sequence[Any] | Tensor,
    labels: Labels | None = None,
    *,
    checkpoint: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """The part of `inspect_images` that says which images carry a shared pattern; takes the same arguments.

    Returns:
        (N,) int64, the number of the pattern that each image carries, 0 for none.

    Raises:
        ValueError, FloatingPointError: as `inspect_images`.
    """
    (indices, names), found = _classes(labels, len(images)), resolve_ebm(checkpoint)
    audit = _Audit(
        images, found, choose_device(device), seed=seed, batch_size=batch_size, progress=lambda what, done, of: None
    )
    return audit.judge(indices, names).numbers


HIGH_ENERGY = 3.0
"""Robust standard deviations above a set's median from which on an energy is rare: 0.4 % of clean CIFAR-10."""


def find_outliers(
    images: Sequence[Any] | Tensor,
    *,
    threshold: float = HIGH_ENERGY,
    checkpoint: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Images whose energy lies far above that of the others, whatever they have in common.

    It finds perturbations made for each image by itself, if they are strong enough to be seen one by one and most
    images of the set have none; the rarest of the clean images go with them.

    Args:
        images: as of `inspect_images`; rows without an image are none.
        threshold: robust standard deviations above the median of the set.
        checkpoint: of the energy network.
        device: where to run.
        batch_size: images in one network call.

    Returns:
        (N,) bool.

    Raises:
        ValueError, FloatingPointError: as `inspect_images`.
    """
    if not len(images):
        return torch.zeros(0, dtype=torch.bool)
    place = choose_device(device)
    with torch.inference_mode(False):
        model = load_ebm(resolve_ebm(checkpoint))
        network = InvariantEBM(model, device=place)
    meter = ImageMeter(images, network, smallest=model.config.smallest_image, device=place, batch_size=batch_size)
    energies, _ = meter.energies(lambda what, done, of: None)
    scores = torch.zeros(len(energies))
    present = energies.isfinite()
    if present.any():
        scores[present] = robust_scores(energies[present])
    return scores > threshold


def _classes(
    labels: Labels | None, count: int, class_names: Sequence[str] = ()
) -> tuple[Tensor | None, tuple[str, ...]]:
    if labels is None:
        return None, tuple(class_names)
    indices, names = class_indices(labels, class_names)
    if len(indices) != count:
        raise ValueError(f"Expected one label for each of the {count} images, but got {len(indices)}.")
    return indices, names


@dataclass(frozen=True)
class _Found:
    """What measuring and judging gives; see `Inspection` for most of it."""

    energies: Tensor
    size: tuple[int, int]
    comparable: Tensor
    judgement: Judgement
    numbers: Tensor


class _Audit:
    """One inspection: the network, the images, and the steps in order."""

    def __init__(
        self,
        images: Sequence[Any] | Tensor,
        checkpoint: EBMCheckpoint,
        device: torch.device,
        *,
        seed: int,
        batch_size: int | None,
        progress: Progress,
    ) -> None:
        with torch.inference_mode(False):
            model = load_ebm(checkpoint)
            self.network = InvariantEBM(model, device=device)
            fast = InvariantEBM(model, dtype=choose_dtype("auto", device), device=device)
        self.checkpoint = checkpoint
        self.device = device
        self.seed = seed
        self.progress = progress
        self.chain = Chain(fast, self.network, model.config.image_size, seed)
        self.meter = ImageMeter(
            images, self.network, smallest=model.config.smallest_image, device=device, batch_size=batch_size
        )

    def judge(self, labels: Tensor | None, class_names: tuple[str, ...]) -> _Found:
        """Energies and shared patterns; no chain runs."""
        energies, sizes = self.meter.energies(self.progress)
        size = commonest_size(sizes)
        measured = int(energies.isfinite().sum())
        if size is None or measured < LEAST_IMAGES:
            raise ValueError(f"Expected at least {LEAST_IMAGES} images to compare, but got {measured}.")
        comparable = torch.tensor([found == size for found in sizes])
        judgement = judge(
            energies,
            self.meter.gradients,
            size=size,
            comparable=comparable,
            labels=labels,
            class_names=class_names,
            seed=self.seed,
            device=self.device,
            progress=self.progress,
        )
        return _Found(energies, size, comparable, judgement, _pattern_numbers(judgement.patterns, len(energies)))

    def run(self, labels: Tensor | None, class_names: tuple[str, ...], sample: int) -> Inspection:
        """All of it."""
        found = self.judge(labels, class_names)
        energies, size, comparable = found.energies, found.size, found.comparable
        judgement, numbers = found.judgement, found.numbers
        measured = int(energies.isfinite().sum())
        plain = comparable & (numbers == 0) & (judgement.scores < OUTLIER)
        typical = self._some(plain if int(plain.sum()) > 1 else comparable, sample)
        suspects = self._suspects(judgement, comparable, sample)
        gauges = [self._gauge(pattern, plain, labels, size) for pattern in judgement.patterns]
        groups = [to_uint8(self.meter.batch(rows)) for rows in (suspects, typical)]
        dynamics = study(
            self.chain,
            *groups,
            rows=suspects,
            gauge=gauges[0] if gauges else None,
            at_once=self.meter.at_once(size),
            progress=self.progress,
        )
        return Inspection(
            level=judgement.level,
            headline=headline(judgement, measured),
            reasons=reasons(judgement, measured),
            images=measured,
            size=size,
            classes=judgement.classes,
            whole=judgement.whole,
            patterns=tuple(
                self._describe(pattern, gauge, typical, labels, class_names)
                for pattern, gauge in zip(judgement.patterns, gauges, strict=True)
            ),
            flagged=_flag(judgement, energies, labels, class_names),
            energies=energies,
            scores=judgement.scores,
            pattern_of=numbers,
            labels=labels,
            class_names=class_names,
            typical_rows=tuple(typical),
            dynamics=dynamics,
            advice=advise(
                dynamics,
                level=judgement.level,
                carriers=int((numbers > 0).sum()),
                images=measured,
                outliers=judgement.unusual_energies,
                options=self._options,
            ),
            notes=notes(energies, comparable, size, labels),
            settings=self._settings(judgement, sample),
        )

    def _suspects(self, judgement: Judgement, comparable: Tensor, sample: int) -> list[int]:
        """Carriers of the first pattern; without one, the images of highest energy within their class."""
        if judgement.patterns:
            carriers = torch.zeros_like(comparable)
            carriers[torch.tensor(judgement.patterns[0].carriers)] = True
            return self._some(carriers, sample)
        rows = comparable.nonzero().flatten()
        return rows[judgement.scores[rows].argsort(descending=True)[:sample]].tolist()

    def _some(self, mask: Tensor, count: int) -> list[int]:
        """Up to `count` random rows of a (N,) bool mask."""
        rows = mask.nonzero().flatten()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        return rows[order[:count]].tolist()

    def _gauge(self, found: FoundPattern, plain: Tensor, labels: Tensor | None, size: tuple[int, int]) -> PatternGauge:
        """What the carriers have in common, beyond other images of their classes where there are some."""
        others = plain
        if labels is not None:
            same = plain & torch.isin(labels, labels[torch.tensor(found.carriers)])
            others = same if int(same.sum()) >= _LEAST_AVERAGED else plain
        count = as_many_as_fit(size, most=_AVERAGED, least=_LEAST_AVERAGED)
        carriers = found.carriers[:count]
        pixels = [self.meter.batch(some).mul_(127.5) for some in (carriers, self._some(others, count) or carriers)]
        return fit_gauge(*pixels)

    def _describe(
        self,
        found: FoundPattern,
        gauge: PatternGauge,
        typical: list[int],
        labels: Tensor | None,
        class_names: tuple[str, ...],
    ) -> SharedPattern:
        by_class: dict[str, int] = {}
        if labels is not None:
            counted = Counter(_class_name(int(labels[row]), class_names) or "no label" for row in found.carriers)
            by_class = dict(counted.most_common())
        at_once = self.meter.at_once(gauge.estimate.shape[-2:])
        taken = self._taken_away(found.carriers[:_DESCENDED], at_once) - self._taken_away(typical, at_once)
        return SharedPattern(
            carriers=len(found.carriers),
            by_class=by_class,
            similarity=found.similarity,
            estimate=taken * 127.5,
            excess=gauge.estimate.cpu(),
        )

    def _taken_away(self, rows: Sequence[int], at_once: int) -> Tensor:
        """What noise-free Langevin steps remove, averaged over images: (3, H, W) on the CPU."""
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        sums = [self.chain.taken_away(self.meter.batch(part)).sum(0).cpu() for part in parts]
        return torch.stack(sums).sum(0) / len(rows)

    @property
    def _options(self) -> dict[str, Any]:
        """What a `PureGen` needs beside its defaults to be the chain that was measured."""
        reference = self.checkpoint.reference
        found = {} if reference == DEFAULT_EBM else {"checkpoint": reference}
        return found | ({"seed": self.seed} if self.seed else {})

    def _settings(self, judgement: Judgement, sample: int) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint.reference,
            "weights_sha256": self.checkpoint.sha256,
            "revision": self.checkpoint.revision,
            "seed": self.seed,
            "sample": sample,
            "device": str(self.device),
            "median_cosine_of_random_pairs": judgement.common,
            "versions": {
                "puregen_transforms": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }


def _pattern_numbers(patterns: Sequence[FoundPattern], count: int) -> Tensor:
    number = torch.zeros(count, dtype=torch.int64)
    for index, pattern in enumerate(patterns):
        number[torch.tensor(pattern.carriers)] = index + 1
    return number


def _class_name(label: int, class_names: Sequence[str]) -> str | None:
    if label < 0:
        return None
    return class_names[label] if label < len(class_names) else str(label)


def _flag(
    judgement: Judgement, energies: Tensor, labels: Tensor | None, class_names: Sequence[str]
) -> tuple[FlaggedImage, ...]:
    """Carriers of each pattern, then outliers of energy."""

    def flagged(row: int, pattern: int | None = None, cosine: float | None = None) -> FlaggedImage:
        return FlaggedImage(
            row=row,
            energy=float(energies[row]),
            score=float(judgement.scores[row]),
            class_name=None if labels is None else _class_name(int(labels[row]), class_names),
            pattern=pattern,
            cosine=cosine,
        )

    carriers = [
        flagged(row, index + 1, cosine)
        for index, pattern in enumerate(judgement.patterns)
        for row, cosine in zip(pattern.carriers, pattern.cosines, strict=True)
    ]
    known = {image.row for image in carriers}
    outliers = (judgement.scores > OUTLIER).nonzero().flatten().tolist()
    alone = [flagged(row) for row in outliers if row not in known]
    return (*carriers, *sorted(alone, key=lambda image: -image.score))

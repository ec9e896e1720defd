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
from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.labels import Labels, class_indices
from puregen_transforms.detection.energy import (
    MeasuredSet,
    load_energy,
    measure_set,
    open_meter,
    pattern_numbers,
)
from puregen_transforms.detection.findings import OUTLIER, SUSPICIOUS, Findings, FoundPattern, GroupFinding
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.detection.statistics import as_many_as_fit
from puregen_transforms.functional.images import to_uint8
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.hub.ebm import resolve_ebm
from puregen_transforms.inspection.dynamics import MARKS, QUANTILES, Advice, Chain, Dynamics, advise, study
from puregen_transforms.inspection.gauge import PatternGauge, fit_gauge
from puregen_transforms.inspection.verdict import headline, notes, reasons
from puregen_transforms.models.ebm_inference import InvariantEBM
from puregen_transforms.purifier.device import choose_device, choose_dtype

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
    progress: Progress = silent,
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
    found, place = resolve_ebm(checkpoint), choose_device(device)
    model = load_energy(checkpoint)
    meter = open_meter(images, model, device=place, batch_size=batch_size)
    measured = measure_set(meter, indices, names, seed=seed, progress=progress)
    with torch.inference_mode(False):
        fast = InvariantEBM(model, dtype=choose_dtype("auto", place), device=place)
    chain = Chain(fast, meter.network, model.config.image_size, seed)
    reference = {} if found.reference == DEFAULT_EBM else {"checkpoint": found.reference}
    return _Audit(meter, chain, measured, indices, names, seed, progress).run(
        sample,
        options=reference | ({"seed": seed} if seed else {}),
        settings={
            "checkpoint": found.reference,
            "weights_sha256": found.sha256,
            "revision": found.revision,
            "seed": seed,
            "sample": sample,
            "device": str(place),
            "median_cosine_of_random_pairs": measured.findings.common,
            "versions": {
                "puregen_transforms": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
    )


def _classes(labels: Labels | None, count: int, class_names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    if labels is None:
        return None, tuple(class_names)
    indices, names = class_indices(labels, class_names)
    if len(indices) != count:
        raise ValueError(f"Expected one label for each of the {count} images, but got {len(indices)}.")
    return indices, names


@dataclass(frozen=True)
class _Audit:
    """What follows the search: samples, how they move under purification, and words.

    Args:
        meter: of the images.
        chain: the purifier.
        measured: energies and findings.
        labels: (N,) or None.
        class_names: by label.
        seed: of the samples.
        progress: told what is being done.
    """

    meter: ImageMeter
    chain: Chain
    measured: MeasuredSet
    labels: Tensor | None
    class_names: tuple[str, ...]
    seed: int
    progress: Progress

    def run(self, sample: int, *, options: dict[str, Any], settings: dict[str, Any]) -> Inspection:
        """Put the report together; `options` are what a `PureGen` needs to be the chain that was measured."""
        measured, findings = self.measured, self.measured.findings
        numbers = pattern_numbers(findings.patterns, len(measured.energies))
        plain = measured.comparable & (numbers == 0) & (findings.scores < OUTLIER)
        typical = self._some(plain if int(plain.sum()) > 1 else measured.comparable, sample)
        suspects = self._suspects(sample)
        gauges = [self._gauge(pattern, plain) for pattern in findings.patterns]
        groups = [to_uint8(self.meter.batch(rows)) for rows in (suspects, typical)]
        dynamics = study(
            self.chain,
            *groups,
            rows=suspects,
            gauge=gauges[0] if gauges else None,
            at_once=self.meter.at_once(measured.size),
            progress=self.progress,
        )
        return Inspection(
            level=findings.level,
            headline=headline(findings, measured.count),
            reasons=reasons(findings, measured.count),
            images=measured.count,
            size=measured.size,
            classes=findings.classes,
            whole=findings.whole,
            patterns=tuple(
                self._describe(pattern, gauge, typical)
                for pattern, gauge in zip(findings.patterns, gauges, strict=True)
            ),
            flagged=_flag(findings, measured.energies, self.labels, self.class_names),
            energies=measured.energies,
            scores=findings.scores,
            pattern_of=numbers,
            labels=self.labels,
            class_names=self.class_names,
            typical_rows=tuple(typical),
            dynamics=dynamics,
            advice=advise(
                dynamics,
                level=findings.level,
                carriers=int((numbers > 0).sum()),
                images=measured.count,
                outliers=findings.unusual_energies,
                options=options,
            ),
            notes=notes(measured.energies, measured.comparable, measured.size, self.labels),
            settings=settings,
        )

    def _suspects(self, sample: int) -> list[int]:
        """Choose carriers of the first pattern; without one, the images of highest energy within their class."""
        findings, comparable = self.measured.findings, self.measured.comparable
        if findings.patterns:
            carriers = torch.zeros_like(comparable)
            carriers[torch.tensor(findings.patterns[0].carriers)] = True
            return self._some(carriers, sample)
        rows = comparable.nonzero().flatten()
        return rows[findings.scores[rows].argsort(descending=True)[:sample]].tolist()

    def _some(self, mask: Tensor, count: int) -> list[int]:
        """Draw up to `count` random rows of a (N,) bool mask."""
        rows = mask.nonzero().flatten()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        return rows[order[:count]].tolist()

    def _gauge(self, found: FoundPattern, plain: Tensor) -> PatternGauge:
        """Estimate what carriers have in common, beyond other images of their classes where there are some."""
        others = plain
        if self.labels is not None:
            same = plain & torch.isin(self.labels, self.labels[torch.tensor(found.carriers)])
            others = same if int(same.sum()) >= _LEAST_AVERAGED else plain
        count = as_many_as_fit(self.measured.size, most=_AVERAGED, least=_LEAST_AVERAGED)
        carriers = found.carriers[:count]
        pixels = [self.meter.batch(some).mul_(127.5) for some in (carriers, self._some(others, count) or carriers)]
        return fit_gauge(*pixels)

    def _describe(self, found: FoundPattern, gauge: PatternGauge, typical: list[int]) -> SharedPattern:
        by_class: dict[str, int] = {}
        if self.labels is not None:
            names = [_class_name(int(self.labels[row]), self.class_names) or "no label" for row in found.carriers]
            by_class = dict(Counter(names).most_common())
        at_once = self.meter.at_once(self.measured.size)
        taken = self._taken_away(found.carriers[:_DESCENDED], at_once) - self._taken_away(typical, at_once)
        return SharedPattern(
            carriers=len(found.carriers),
            by_class=by_class,
            similarity=found.similarity,
            estimate=taken * 127.5,
            excess=gauge.estimate.cpu(),
        )

    def _taken_away(self, rows: Sequence[int], at_once: int) -> Tensor:
        """Average what noise-free Langevin steps remove from images: (3, H, W) on the CPU."""
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        sums = [self.chain.taken_away(self.meter.batch(part)).sum(0).cpu() for part in parts]
        return torch.stack(sums).sum(0) / len(rows)


def _class_name(label: int, class_names: Sequence[str]) -> str | None:
    if label < 0:
        return None
    return class_names[label] if label < len(class_names) else str(label)


def _flag(
    findings: Findings, energies: Tensor, labels: Tensor | None, class_names: Sequence[str]
) -> tuple[FlaggedImage, ...]:
    """Carriers of each pattern, then outliers of energy."""

    def flagged(row: int, pattern: int | None = None, cosine: float | None = None) -> FlaggedImage:
        return FlaggedImage(
            row=row,
            energy=float(energies[row]),
            score=float(findings.scores[row]),
            class_name=None if labels is None else _class_name(int(labels[row]), class_names),
            pattern=pattern,
            cosine=cosine,
        )

    carriers = [
        flagged(row, index + 1, cosine)
        for index, pattern in enumerate(findings.patterns)
        for row, cosine in zip(pattern.carriers, pattern.cosines, strict=True)
    ]
    known = {image.row for image in carriers}
    outliers = (findings.scores > OUTLIER).nonzero().flatten().tolist()
    alone = [flagged(row) for row in outliers if row not in known]
    return (*carriers, *sorted(alone, key=lambda image: -image.score))

"""Audit a possibly poisoned image data set: a verdict, its energies, and what purification would help."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms import __version__
from puregen_transforms._html import card, listing, paragraph
from puregen_transforms._progress import Progress, silent
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.labels import Labels, class_indices
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.energy import (
    MeasuredSet,
    kept_energies,
    load_energy,
    measure_set,
    open_meter,
    outlier_report,
    pattern_numbers,
    pattern_report,
)
from puregen_transforms.detection.findings import OUTLIER, SUSPICIOUS, FoundPattern, GroupFinding
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.detection.statistics import as_many_as_fit
from puregen_transforms.detection.verdict import Verdict
from puregen_transforms.detection.whole_search import Train, read_once, search_set
from puregen_transforms.functional.images import to_uint8
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from puregen_transforms.hub.ebm import resolve_ebm
from puregen_transforms.inspection.dynamics import MARKS, QUANTILES, Advice, Chain, Dynamics, advise, sample_for, study
from puregen_transforms.inspection.energy_words import headline, notes, reasons
from puregen_transforms.inspection.gauge import PatternGauge, fit_gauge
from puregen_transforms.inspection.heat import Scale
from puregen_transforms.models.ebm_inference import InvariantEBM
from puregen_transforms.purifier.device import choose_device, choose_dtype

_AVERAGED, _LEAST_AVERAGED = 512, 32
_LEAST_DESCENDED = 8
_LEAST_SAMPLE = 2
_DRAWN = 24
_SCALED = 32
"""Typical images whose energy maps tell what is ordinary."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """What an audit found.

    Args:
        verdict: of all searches.
        energies_headline: what the energies say, in one sentence.
        reasons: why, one sentence each.
        measured: how many images have an energy.
        size: height and width of those that were compared with each other.
        classes: the one of the most suspicious energies first; empty without labels.
        whole: the set as one group.
        patterns: shared perturbations, those of most images first.
        energies: (N,) raw; NaN where a row holds no image.
        scores: (N,) robust score of each energy within its class.
        pattern_of: (N,) number of the pattern each image carries, 0 for none.
        labels: (N,) or None.
        class_names: by label.
        typical_rows: images that nothing was found in, as used for comparison; empty where nothing was purified.
        dynamics: how the images that were found move under purification; None where none were.
        drawn_rows: of images that were found, to be drawn; those of `dynamics` first.
        heat: (n, h, w) where the energy of these images sits, cell by cell: 0 and less as in nine of ten cells of the
            typical images, 1 and more as in one of a thousand; see `heat.Scale`. None where there are none.
        advice: what to do.
        notes: what was left out of the energies, and why.
        settings: checkpoint, its sha256, seed, versions and the like.
    """

    verdict: Verdict
    energies_headline: str
    reasons: tuple[str, ...]
    measured: int
    size: tuple[int, int]
    classes: tuple[GroupFinding, ...]
    whole: GroupFinding
    patterns: tuple[SharedPattern, ...]
    energies: Tensor
    scores: Tensor
    pattern_of: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    typical_rows: tuple[int, ...]
    dynamics: Dynamics | None
    drawn_rows: tuple[int, ...]
    heat: Tensor | None
    advice: Advice
    notes: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def suspicious_classes(self) -> tuple[str, ...]:
        """Names of the classes with a pattern in their energies, the worst first."""
        return tuple(group.name for group in self.classes if group.level == SUSPICIOUS)

    def _repr_html_(self) -> str:
        """Show the findings in a notebook."""
        advice = card("What to do", listing(self.advice.sentences))
        return self.verdict._repr_html_() + paragraph(f"Energies: {self.energies_headline}") + advice

    def to_dict(self) -> dict[str, Any]:
        """Everything about energies and advice but pixels and what is said of single images, JSON-ready."""
        dynamics = None
        if self.dynamics is not None:
            dynamics = {"steps": list(MARKS), "energy_quantiles": list(QUANTILES), **asdict(self.dynamics)}
            del dynamics["repaired"]
        return {
            "headline": self.energies_headline,
            "reasons": list(self.reasons),
            "measured": self.measured,
            "size": list(self.size),
            "classes": [asdict(group) for group in self.classes],
            "whole": asdict(self.whole),
            "patterns": [
                {"carriers": pattern.carriers, "by_class": pattern.by_class, "similarity": pattern.similarity}
                for pattern in self.patterns
            ],
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
    reserved: ImageSet | None = None,
    budget: str = "20m",
    train: Train | None = None,
    checkpoint: str | None = None,
    sample: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    state: Path | None = None,
    progress: Progress = silent,
    overrule: Callable[[Verdict], Verdict] = lambda verdict: verdict,
) -> Inspection:
    """Search a set of images for poison, with or without labels, and look at its energies.

    Where something was found, a sample of it is purified, to say what that would help.

    Args:
        images: (N, C, H, W) tensor, or a sequence of images in any form `PureGen` takes, read by row as
            needed; None stands for a missing image.
        labels: class of each image, as an index (negative where it has none) or a word; see `class_indices`.
        class_names: by index.
        reserved: clean labelled images of the same classes, for searches that can use them.
        budget: how much is searched; see `search_set`.
        train: trains the classifier that searches look into; see `search_set`.
        checkpoint: of the energy network: catalogue name, "owner/name" or "owner/name@revision" on the Hub, or folder;
            None is the packaged default.
        sample: how many images that were found, and as many typical ones, to purify; None: see `sample_for`.
        seed: of random choices and of the chain's noise.
        device: where to run; None is the accelerator that torch reports, else the CPU.
        batch_size: images in one call of the energy network; None chooses by their size.
        state: folder for what is finished, from which a killed search goes on.
        progress: told what is being done.
        overrule: lets decisions of a person change the verdict.

    Raises:
        ValueError: too few images, labels of another length or that are none, or an image that cannot be read.
        FloatingPointError: an energy is not finite.
    """
    if sample is not None and (sample < 0 or sample == 1):
        raise ValueError(f"Expected a `sample` of 2 images or more, or of 0 to purify none, but got {sample}.")
    indices, names = _classes(labels, len(images), class_names)
    found, place = resolve_ebm(checkpoint), choose_device(device)
    suspects = read_once(
        SuspectSet(
            images=images,
            labels=indices,
            class_names=names,
            reserved=reserved,
            seed=seed,
            device=place,
            state=state,
            progress=progress,
        )
    )
    started = time.perf_counter()
    model = load_energy(checkpoint)
    meter = open_meter(suspects.images, model, device=place, batch_size=batch_size)
    measured = measure_set(meter, suspects, kept=kept_energies(suspects, found.sha256))
    settings = {"checkpoint": found.reference, "weights_sha256": found.sha256, "seed": seed}
    seconds = time.perf_counter() - started
    known = {
        name: replace(report(measured, suspects), detector=name, settings=settings, seconds=seconds)
        for name, report in (("shared_patterns", pattern_report), ("unusual_energies", outlier_report))
    }
    verdict = overrule(search_set(replace(suspects, known=known), budget=budget, train=train))
    with torch.inference_mode(False):
        fast = InvariantEBM(model, dtype=choose_dtype("auto", place), device=place)
    chain = Chain(fast, meter.network, model.config.image_size, seed)
    sample = sample_for(measured.size) if sample is None else sample
    reference = {} if found.reference == DEFAULT_EBM else {"checkpoint": found.reference}
    return _Audit(meter, chain, measured, verdict, indices, names, seed, progress).run(
        sample,
        options=reference | ({"seed": seed} if seed else {}),
        settings={
            **settings,
            "revision": found.revision,
            "budget": budget,
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
    """What follows the searches: samples, how they move under purification, and words.

    Args:
        meter: of the images.
        chain: the purifier.
        measured: energies and findings.
        verdict: of all searches.
        labels: (N,) or None.
        class_names: by label.
        seed: of the samples.
        progress: told what is being done.
    """

    meter: ImageMeter
    chain: Chain
    measured: MeasuredSet
    verdict: Verdict
    labels: Tensor | None
    class_names: tuple[str, ...]
    seed: int
    progress: Progress

    def run(self, sample: int, *, options: dict[str, Any], settings: dict[str, Any]) -> Inspection:
        """Put the report together; `options` are what a `PureGen` needs to be the chain that was measured."""
        measured, findings = self.measured, self.measured.findings
        numbers = pattern_numbers(findings.patterns, len(measured.energies))
        found = self.verdict.flagged | self.verdict.doubtful
        plain = measured.comparable & ~found & (numbers == 0) & (findings.scores < OUTLIER)
        ordinary = plain if int(plain.sum()) > 1 else measured.comparable
        typical = self._some(ordinary, max(sample, _LEAST_SAMPLE))
        gauges = [self._gauge(pattern.carriers, plain) for pattern in findings.patterns]
        suspects = self._suspects()
        drawn = self._draw(suspects, max(sample, _DRAWN)) if suspects else []
        dynamics, heat = None, None
        if drawn:
            scale = Scale.of([self.meter.maps(self._some(ordinary, _SCALED))])
            heat = scale.heat(self.meter.maps(drawn))
        if sample and suspects:
            own = gauges[0] if gauges else self._gauge(suspects, plain)
            dynamics = self._study(drawn[:sample], typical, own)
        return Inspection(
            verdict=self.verdict,
            energies_headline=headline(findings, measured.count),
            reasons=reasons(findings, measured.count),
            measured=measured.count,
            size=measured.size,
            classes=findings.classes,
            whole=findings.whole,
            patterns=tuple(
                self._describe(pattern, gauge, typical)
                for pattern, gauge in zip(findings.patterns, gauges, strict=True)
            ),
            energies=measured.energies,
            scores=findings.scores,
            pattern_of=numbers,
            labels=self.labels,
            class_names=self.class_names,
            typical_rows=() if dynamics is None else tuple(typical),
            dynamics=dynamics,
            drawn_rows=tuple(drawn),
            heat=heat,
            advice=advise(self.verdict, dynamics, options=options),
            notes=notes(measured.energies, measured.comparable, measured.size, self.labels),
            settings=settings,
        )

    def _study(self, suspects: list[int], typical: list[int], gauge: PatternGauge) -> Dynamics:
        groups = [to_uint8(self.meter.batch(rows)) for rows in (suspects, typical)]
        return study(
            self.chain,
            *groups,
            rows=suspects,
            gauge=gauge,
            at_once=self.meter.at_once(self.measured.size),
            progress=self.progress,
        )

    def _suspects(self) -> list[int]:
        """Choose carriers of the first pattern; without one, what the search that found most flags; else doubts."""
        if self.measured.findings.patterns:
            return list(self.measured.findings.patterns[0].carriers)
        verdict, comparable = self.verdict, self.measured.comparable
        counted = Counter(verdict.found_by[verdict.flagged & comparable].tolist())
        most = counted.most_common(1)
        found = verdict.flagged & (verdict.found_by == most[0][0]) if most else verdict.doubtful
        return (found & comparable).nonzero().flatten().tolist()

    def _draw(self, rows: Sequence[int], count: int) -> list[int]:
        """Draw up to `count` random rows."""
        mask = torch.zeros(len(self.verdict), dtype=torch.bool)
        mask[torch.tensor(rows)] = True
        return self._some(mask, count)

    def _some(self, mask: Tensor, count: int) -> list[int]:
        """Draw up to `count` random rows of a (N,) bool mask."""
        rows = mask.nonzero().flatten()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))
        return rows[order[:count]].tolist()

    def _gauge(self, rows: Sequence[int], plain: Tensor) -> PatternGauge:
        """Estimate what images have in common, beyond other images of their classes where there are some."""
        others = plain
        if self.labels is not None:
            same = plain & torch.isin(self.labels, self.labels[torch.tensor(rows)])
            others = same if int(same.sum()) >= _LEAST_AVERAGED else plain
        count = as_many_as_fit(self.measured.size, most=_AVERAGED, least=_LEAST_AVERAGED)
        carriers = rows[:count]
        pixels = [self.meter.batch(some).mul_(127.5) for some in (carriers, self._some(others, count) or carriers)]
        return fit_gauge(*pixels)

    def _describe(self, found: FoundPattern, gauge: PatternGauge, typical: list[int]) -> SharedPattern:
        by_class: dict[str, int] = {}
        if self.labels is not None:
            names = [_class_name(int(self.labels[row]), self.class_names) or "no label" for row in found.carriers]
            by_class = dict(Counter(names).most_common())
        at_once = self.meter.at_once(self.measured.size)
        carriers = found.carriers[: max(_LEAST_DESCENDED, 2 * sample_for(self.measured.size))]
        taken = self._taken_away(carriers, at_once) - self._taken_away(typical, at_once)
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

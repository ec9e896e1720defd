"""Detectors by the energy network: images that share a perturbation, and images of unusually high energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from puregen_transforms._files import write_atomically
from puregen_transforms._progress import Progress
from puregen_transforms.data.labels import Labels
from puregen_transforms.detection.detector import Detector, SuspectSet, run_detector
from puregen_transforms.detection.energy_levels import (
    HIGH_ENERGY,
    high_energies,
    judge_classes,
    judge_group,
    rows_by_class,
    score_energies,
)
from puregen_transforms.detection.findings import Findings, FoundPattern, GroupFinding
from puregen_transforms.detection.measure import ImageMeter, commonest_size
from puregen_transforms.detection.pattern_search import search
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.statistics import robust_scores
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import InvariantEBM

LEAST_IMAGES = 10
"""Images that a set needs to be compared with each other."""


@dataclass(frozen=True, kw_only=True)
class EnergyDetector(Detector):
    """A detector that measures the energy of every image.

    Args:
        checkpoint: of the energy network; see `SharedPatterns`.
        batch_size: images in one network call; None chooses by their size.
    """

    checkpoint: str | None = None
    batch_size: int | None = None

    def identity(self) -> str:
        """Return the hash of the weights."""
        return resolve_ebm(self.checkpoint).sha256

    def meter(self, suspects: SuspectSet) -> ImageMeter:
        """Prepare to measure the images of a set."""
        model = load_energy(self.checkpoint)
        return open_meter(suspects.images, model, device=suspects.device, batch_size=self.batch_size)

    def energies(self, suspects: SuspectSet) -> Tensor:
        """Measure the energy of every image, or read what is kept: (N,), NaN where there is no image."""
        return measure_energies(self.meter(suspects), suspects.progress, kept_energies(suspects, self.identity()))[0]


@dataclass(frozen=True, kw_only=True)
class SharedPatterns(EnergyDetector):
    """Flag images whose energy gradients share a direction that chance does not explain.

    A perturbation that many images carry pulls their energy gradients the same way, whatever they show. An image's
    score is by how much it exceeds the cosine from which it counts as a carrier; all are 0 where no pattern is found.
    Labels are used where there are some: each class is searched by itself. `details["pattern"]` has the number of
    the pattern that an image carries, from 1, and 0 for none.

    Args:
        checkpoint: of the energy network: catalogue name, "owner/name" or "owner/name@revision" on the Hub, or folder;
            None is the packaged default.
        batch_size: images in one network call; None chooses by their size.
    """

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Search every class, and the set as a whole.

        Raises:
            ValueError: too few images, or an image that cannot be read.
            FloatingPointError: an energy is not finite.
        """
        measured = measure_set(self.meter(suspects), suspects, kept=kept_energies(suspects, self.identity()))
        return pattern_report(measured, suspects)


@dataclass(frozen=True, kw_only=True)
class EnergyOutliers(EnergyDetector):
    """Flag images whose energy lies far above that of the others, whatever they have in common.

    It finds perturbations made for each image by itself, if they are strong enough to be seen one by one and most
    images of the set have none; the rarest of the clean images go with them. Scores are robust standard deviations
    above the median of the set.

    Args:
        threshold: score above which an image is flagged.
        checkpoint: of the energy network; see `SharedPatterns`.
        batch_size: images in one network call; None chooses by their size.
    """

    threshold: float = HIGH_ENERGY

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Measure every energy.

        Raises:
            ValueError: an image that cannot be read.
            FloatingPointError: an energy is not finite.
        """
        energies = self.energies(suspects)
        scores, present = torch.full_like(energies, torch.nan), energies.isfinite()
        if present.any():
            scores[present] = robust_scores(energies[present])
        return DetectionReport(scores=scores, flagged=scores > self.threshold)


@dataclass(frozen=True, kw_only=True)
class UnusualEnergies(EnergyDetector):
    """Flag images of high energy in classes that have more of them than chance gives.

    It finds perturbations made for each image by itself, as gradient matching makes them, where one class has them:
    the other classes tell how many outliers are usual. Without labels the set is judged as one class. Scores are
    robust standard deviations above the median of the class.

    Args:
        checkpoint: of the energy network; see `SharedPatterns`.
        batch_size: images in one network call; None chooses by their size.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"labels"})

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Measure every energy, and judge each class.

        Raises:
            ValueError: no images, or one that cannot be read.
            FloatingPointError: an energy is not finite.
        """
        energies = self.energies(suspects)
        every = energies.isfinite()
        if not every.any():
            raise ValueError("Expected at least one image, but got none.")
        members = rows_by_class(suspects.labels, energies)
        scores = score_energies(energies, members)
        classes = judge_classes(energies, scores, members, suspects.class_names)
        whole = judge_group("whole set", None, energies[every], scores[every], len(members) + 1)
        return _report_levels(scores, classes, whole, suspects)


def find_patterns(
    images: Sequence[Any] | Tensor,
    labels: Labels | None = None,
    *,
    checkpoint: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Find which shared pattern each image carries, by number, 0 for none: (N,) int64; see `SharedPatterns`.

    Args:
        images: (N, C, H, W) tensor, or a sequence of images in any form `PureGen` takes; None for a missing image.
        labels: class of each image, as an index (negative where it has none) or a word.
        checkpoint: of the energy network.
        seed: of random choices.
        device: where to run; None is the accelerator that torch reports, else the CPU.
        batch_size: images in one network call; None chooses by their size.

    Raises:
        ValueError: too few images, labels of another length or that are none, or an image that cannot be read.
        FloatingPointError: an energy is not finite.
    """
    detector = SharedPatterns(checkpoint=checkpoint, batch_size=batch_size)
    return run_detector("shared_patterns", detector, images, labels, seed=seed, device=device).details["pattern"]


def find_outliers(
    images: Sequence[Any] | Tensor,
    *,
    threshold: float = HIGH_ENERGY,
    checkpoint: str | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Mark images whose energy lies far above that of the others: (N,) bool; see `EnergyOutliers`.

    Args:
        images: as of `find_patterns`; rows without an image are none.
        threshold: robust standard deviations above the median of the set.
        checkpoint: of the energy network.
        device: where to run.
        batch_size: images in one network call.

    Raises:
        ValueError: an image that cannot be read.
        FloatingPointError: an energy is not finite.
    """
    detector = EnergyOutliers(threshold=threshold, checkpoint=checkpoint, batch_size=batch_size)
    return run_detector("energy_outliers", detector, images, device=device).flagged


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSet:
    """Energies of a set, and what was found in it.

    Args:
        energies: (N,), NaN where there is no image.
        size: height and width of most images, which were compared with each other.
        comparable: (N,) bool, the images of that size.
        findings: by class, and by pattern.
    """

    energies: Tensor
    size: tuple[int, int]
    comparable: Tensor
    findings: Findings

    @property
    def count(self) -> int:
        """How many images were measured."""
        return int(self.energies.isfinite().sum())


def load_energy(checkpoint: str | None) -> EBM:
    """Load the energy network; its weights are made outside of inference mode, so that gradients can be taken."""
    with torch.inference_mode(False):
        return load_ebm(resolve_ebm(checkpoint))


def open_meter(
    images: Sequence[Any] | Tensor, model: EBM, *, device: torch.device, batch_size: int | None = None
) -> ImageMeter:
    """Prepare to measure images in float32."""
    with torch.inference_mode(False):
        network = InvariantEBM(model, device=device)
    return ImageMeter(images, network, smallest=model.config.smallest_image, device=device, batch_size=batch_size)


def kept_energies(suspects: SuspectSet, weights: str) -> Path | None:
    """Name the file in which the energies of a set are kept, by its content and the network's weights."""
    if suspects.state is None:
        return None
    return suspects.state / f"energies-{weights[:16]}-{suspects.fingerprint()}.safetensors"


def measure_set(meter: ImageMeter, suspects: SuspectSet, *, kept: Path | None = None) -> MeasuredSet:
    """Measure every image, and search for shared patterns.

    Args:
        meter: of the images.
        suspects: the set.
        kept: file for the energies, written when all are measured, and read where it is there; None keeps none.

    Raises:
        ValueError: too few images, or an image that cannot be read.
        FloatingPointError: an energy is not finite.
    """
    energies, sizes = measure_energies(meter, suspects.progress, kept)
    size = commonest_size(sizes)
    count = int(energies.isfinite().sum())
    if size is None or count < LEAST_IMAGES:
        raise ValueError(f"Expected at least {LEAST_IMAGES} images to compare, but got {count}.")
    comparable = torch.tensor([found == size for found in sizes])
    findings = search(
        energies,
        meter.gradients,
        size=size,
        comparable=comparable,
        labels=suspects.labels,
        class_names=suspects.class_names,
        seed=suspects.seed,
        device=meter.device,
        progress=suspects.progress,
    )
    return MeasuredSet(energies=energies, size=size, comparable=comparable, findings=findings)


def measure_energies(
    meter: ImageMeter, progress: Progress, kept: Path | None
) -> tuple[Tensor, list[tuple[int, int] | None]]:
    """Measure the energies and sizes of all images, or read what was measured before."""
    if kept is not None and kept.exists():
        found = load_file(kept)
        sizes = [(height, width) if height else None for height, width in found["sizes"].tolist()]
        return found["energies"], sizes
    energies, sizes = meter.energies(progress)
    if kept is not None:
        keep_energies(kept, energies, sizes)
    return energies, sizes


def keep_energies(kept: Path, energies: Tensor, sizes: Sequence[tuple[int, int] | None]) -> None:
    """Keep the energies and sizes of all images in a file, where `measure_energies` reads them."""
    pairs = torch.tensor([size or (0, 0) for size in sizes])
    write_atomically(kept, save({"energies": energies, "sizes": pairs}))


def pattern_report(measured: MeasuredSet, suspects: SuspectSet) -> DetectionReport:
    """Score and flag the images of a measured set as `SharedPatterns` does."""
    findings = measured.findings
    numbers = pattern_numbers(findings.patterns, len(suspects))
    scores = findings.margins.clamp(min=-2.0) if findings.patterns else torch.zeros(len(suspects))
    scores[~measured.energies.isfinite()] = torch.nan
    facts = {
        group.label: {"similarity": group.similarity, "expected": group.expected, "p": group.pattern_p}
        for group in findings.classes
        if group.label is not None
    }
    return DetectionReport(
        scores=scores,
        flagged=numbers > 0,
        classes=count_by_class(numbers > 0, suspects.labels, suspects.class_names, facts),
        details={"pattern": numbers},
    )


def outlier_report(measured: MeasuredSet, suspects: SuspectSet) -> DetectionReport:
    """Score and flag the images of a measured set as `UnusualEnergies` does."""
    findings = measured.findings
    return _report_levels(findings.scores, findings.classes, findings.whole, suspects)


def _report_levels(
    scores: Tensor, classes: Sequence[GroupFinding], whole: GroupFinding, suspects: SuspectSet
) -> DetectionReport:
    flagged = high_energies(scores, classes, whole, suspects.labels)
    facts = {
        one.label: {"outliers": float(one.outliers), "p": one.outlier_p} for one in classes if one.label is not None
    }
    counts = count_by_class(flagged, suspects.labels, suspects.class_names, facts)
    return DetectionReport(scores=scores, flagged=flagged, classes=counts)


def pattern_numbers(patterns: Sequence[FoundPattern], count: int) -> Tensor:
    """Give the number, from 1, of the pattern that each of `count` images carries, 0 for none: (N,) int64."""
    numbers = torch.zeros(count, dtype=torch.int64)
    for index, pattern in enumerate(patterns):
        numbers[torch.tensor(pattern.carriers)] = index + 1
    return numbers

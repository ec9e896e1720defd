"""Estimate how long the searches of a set take, by doing their longest parts with a few of its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from puregen_transforms._progress import duration, silent
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.energy import EnergyDetector, load_energy, open_meter
from puregen_transforms.functional.images import size_of
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

TIMED_PIXELS, TIMED_PIXELS_ON_GPU = 2**17, 2**20
"""Pixels of the images that are looked at: about a second's work."""

LARGEST = 512
"""Pixels of height and width up to which an image is looked at whole; time and memory grow with pixels."""

SHORT = 16
"""Times as many images as are looked at, that a set must have for an estimate to be worth its time."""


@dataclass(frozen=True, kw_only=True)
class SearchTime:
    """Seconds that the longest parts of a search will take.

    Args:
        training: the classifier that searches look into; 0 if none is trained.
        energies: reading the images, and measuring their energies; 0 if none are measured.
    """

    training: float = 0.0
    energies: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.total)

    @property
    def total(self) -> float:
        """Seconds of these parts together."""
        return self.training + self.energies

    def __str__(self) -> str:
        parts = {"to train the classifier": self.training, "to measure energies": self.energies}
        words = " and ".join(f"{duration(seconds)} {what}" for what, seconds in parts.items() if seconds)
        return f"Estimate: at least {duration(self.total)}, timed on a few images: {words}."

    def __add__(self, other: SearchTime) -> SearchTime:
        return SearchTime(training=self.training + other.training, energies=self.energies + other.energies)


def time_of(suspects: SuspectSet, detectors: Iterable[Detector], *, epochs: int) -> SearchTime:
    """Estimate the time that searches of a set will take; what an earlier run has left is not counted off.

    Args:
        suspects: the set; images of several sizes are taken for a mixture of those that are looked at.
        detectors: that will search it.
        epochs: of the classifier, if one of them needs it.

    Returns:
        Nothing of a small set, or one whose images cannot be searched, which the search itself will say.
    """
    detectors = tuple(detectors)
    by_energy = next((detector for detector in detectors if isinstance(detector, EnergyDetector)), None)
    trained = suspects.network is None and suspects.labels is not None
    trained = trained and any("network" in detector.needs for detector in detectors)
    try:
        rows = _some_rows(suspects)
        if len(suspects) <= SHORT * len(rows):
            return SearchTime()
        started = time.monotonic()
        images = [image for row in rows if (image := suspects.read(row)) is not None]
        reading = time.monotonic() - started
        if not images:
            return SearchTime()
        crops = [image[:, :LARGEST, :LARGEST] for image in images]
        with torch.random.fork_rng():  # what is random in the search stays as it is without an estimate
            energies = _seconds_of_energies(crops, by_energy, suspects.device) if by_energy else 0.0
            training = _seconds_of_an_epoch(crops, suspects) if trained else 0.0
    except (ValueError, RuntimeError):
        return SearchTime()
    each = len(suspects) / len(images)
    larger = sum(image.numel() for image in images) / sum(crop.numel() for crop in crops)
    return SearchTime(
        training=training * epochs * each * larger,
        energies=(energies * larger + reading) * each if by_energy else 0.0,
    )


def _some_rows(suspects: SuspectSet) -> list[int]:
    """Choose rows from all over a set, by the size of the image in its middle."""
    middle = suspects.read(len(suspects) // 2)
    if middle is None:
        raise ValueError("Expected an image in the middle of the set, but there is none.")
    pixels = TIMED_PIXELS if suspects.device.type == "cpu" else TIMED_PIXELS_ON_GPU
    count = min(len(suspects), max(1, pixels // middle[0].numel()))
    return [(2 * place + 1) * len(suspects) // (2 * count) for place in range(count)]


def _seconds_of_energies(images: list[Tensor], detector: EnergyDetector, device: torch.device) -> float:
    """Time the energies of some images."""
    model = load_energy(detector.checkpoint)

    def measure(some: list[Tensor]) -> None:
        open_meter(some, model, device=device, batch_size=detector.batch_size).energies(silent)

    measure(images[:1])  # the first call takes longer
    return _seconds(lambda: measure(images))


def _seconds_of_an_epoch(images: list[Tensor], suspects: SuspectSet) -> float:
    """Time an epoch of training on some images; 0 if they are of several sizes, as nothing is trained on such."""
    assert suspects.labels is not None
    if len({image.shape for image in images}) > 1:
        return 0.0
    classes = max(int(suspects.labels.max()) + 1, len(suspects.class_names))
    epochs = train_classifier(
        build_classifier("small", classes, image_size=size_of(images[0])).to(suspects.device),
        torch.stack(images).to(suspects.device),
        torch.zeros(len(images), dtype=torch.int64, device=suspects.device),
        generator=torch.Generator().manual_seed(0),
        recipe=FastRecipe(epochs=2),
    )
    next(epochs)  # the first takes longer
    return _seconds(lambda: next(epochs))


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started

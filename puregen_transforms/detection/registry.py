"""Every detector by its name, and the one way to run one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

from torch import Tensor

from puregen_transforms.data.labels import Labels
from puregen_transforms.detection.agpd import Agpd
from puregen_transforms.detection.class_split import ClassSplit
from puregen_transforms.detection.confusion_training import ConfusionTraining
from puregen_transforms.detection.detector import Detector, run_detector
from puregen_transforms.detection.energy import EnergyOutliers, SharedPatterns, UnusualEnergies
from puregen_transforms.detection.flare import Flare
from puregen_transforms.detection.frequency import Frequency
from puregen_transforms.detection.label_disagreement import LabelDisagreement
from puregen_transforms.detection.latent import ActivationClustering, SpectralSignatures
from puregen_transforms.detection.moved_labels import MovedLabels
from puregen_transforms.detection.patches import Patches
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.residual_patterns import ResidualPatterns
from puregen_transforms.detection.scan import SCAn
from puregen_transforms.detection.shortcuts import Shortcuts
from puregen_transforms.detection.stamps import Stamps
from puregen_transforms.detection.strip import Strip
from puregen_transforms.detection.stripes import Stripes
from puregen_transforms.detection.whole_search import WholeSearch

DETECTORS: dict[str, Callable[..., Detector]] = {
    "shared_patterns": SharedPatterns,
    "energy_outliers": EnergyOutliers,
    "unusual_energies": UnusualEnergies,
    "stamps": Stamps,
    "patches": Patches,
    "residual_patterns": ResidualPatterns,
    "stripes": Stripes,
    "spectral_signatures": SpectralSignatures,
    "activation_clustering": ActivationClustering,
    "scan": SCAn,
    "strip": Strip,
    "frequency": Frequency,
    "flare": Flare,
    "agpd": Agpd,
    "class_split": ClassSplit,
    "label_disagreement": LabelDisagreement,
    "moved_labels": MovedLabels,
    "shortcuts": Shortcuts,
    "confusion_training": ConfusionTraining,
    "whole_search": WholeSearch,
}

D = TypeVar("D", bound=Callable[..., Detector])


def register(name: str) -> Callable[[D], D]:
    """Add a detector under a name, as a decorator of its class.

    Raises:
        ValueError: the name is taken.
    """

    def add(made: D) -> D:
        if name in DETECTORS:
            raise ValueError(f"Expected a name that no detector has, but {name!r} is taken.")
        DETECTORS[name] = made
        return made

    return add


def settings_of(made: Callable[..., Detector]) -> dict[str, Any]:
    """List the settings of a detector with their defaults."""
    return {field.name: field.default for field in fields(made)} if is_dataclass(made) else {}


def build_detector(name: str, *, preset: str | None = None, **settings: Any) -> Detector:
    """Make a detector with its settings.

    Args:
        name: in any case, with hyphens or underscores.
        preset: settings to begin with, for detectors that have some (`Detector.presets`); None are the defaults.
        settings: fields of its class.

    Raises:
        ValueError: no such detector, preset or setting, or a value out of range.
    """
    key = name.lower().replace("-", "_")
    if key not in DETECTORS:
        raise ValueError(f"Expected a detector out of {', '.join(DETECTORS)}, but got {name!r}.")
    made = DETECTORS[key]
    known = settings_of(made)
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"Expected settings of the detector {key!r} out of {', '.join(known) or 'none'}, but got "
            f"{', '.join(unknown)}."
        )
    return made(**settings) if preset is None else cast(type[Detector], made).preset(preset, **settings)


def detect(
    detector: str | Detector,
    images: Sequence[Any] | Tensor,
    labels: Labels | None = None,
    *,
    preset: str | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> DetectionReport:
    """Search a set of images for poisoned ones.

    Args:
        detector: name, see `DETECTORS`, or a detector with its settings.
        images: (N, 3, H, W) uint8 tensor, or a sequence of images in any form that `PureGen` takes.
        labels: class of each image, as an index (negative where it has none) or a word.
        preset: of the detector, where it is given by name and has some: "smoke", "cpu" or "paper".
        settings: of the detector, where it is given by name.
        options: class_names, reserved, network, seed, device, state, progress; see `run_detector`.

    Raises:
        ValueError: an unknown detector, preset or setting, or something that it needs is missing.
    """
    if isinstance(detector, str):
        return run_detector(
            detector, build_detector(detector, preset=preset, **(settings or {})), images, labels, **options
        )
    if settings or preset:
        raise ValueError("Expected the settings in the detector itself, as it is not given by name.")
    return run_detector(_name_of(detector), detector, images, labels, **options)


def _name_of(detector: Detector) -> str:
    return next((name for name, made in DETECTORS.items() if made is type(detector)), type(detector).__name__)

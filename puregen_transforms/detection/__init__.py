"""Find poisoned images before training on them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puregen_transforms.detection.detector import Detector as Detector
    from puregen_transforms.detection.detector import SuspectSet as SuspectSet
    from puregen_transforms.detection.energy import find_outliers as find_outliers
    from puregen_transforms.detection.energy import find_patterns as find_patterns
    from puregen_transforms.detection.registry import DETECTORS as DETECTORS
    from puregen_transforms.detection.registry import detect as detect
    from puregen_transforms.detection.registry import register as register
    from puregen_transforms.detection.report import DetectionReport as DetectionReport

_HOMES = {
    "DETECTORS": "registry",
    "DetectionReport": "report",
    "Detector": "detector",
    "SuspectSet": "detector",
    "detect": "registry",
    "find_outliers": "energy",
    "find_patterns": "energy",
    "register": "registry",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that the package itself imports no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

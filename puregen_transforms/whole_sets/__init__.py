"""Whole data sets: many processes, killed at any moment, nothing lost."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

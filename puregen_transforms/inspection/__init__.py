"""Audit a data set for poison, and write a report with pictures."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

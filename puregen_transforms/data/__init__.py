"""Image data: opened, described and read."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

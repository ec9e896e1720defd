"""The order of work: stages, and the purifier that runs them."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

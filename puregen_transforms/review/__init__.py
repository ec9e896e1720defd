"""Look at suspects in a browser, and overrule the verdict."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

"""From a data set that may be poisoned to a clean one: searched, decided, copied and verified."""

from puregen_transforms._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)

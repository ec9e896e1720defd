"""Packages that only some commands need."""

from __future__ import annotations

from importlib.util import find_spec


def has_extra(module: str) -> bool:
    """Tell whether an optional package is installed."""
    return find_spec(module) is not None


def require_extra(module: str, extra: str) -> None:
    """Raise ImportError with the install command unless `module` is installed."""
    if not has_extra(module):
        raise ImportError(f'This needs {module}. Install it with: pip install "puregen-transforms[{extra}]"')

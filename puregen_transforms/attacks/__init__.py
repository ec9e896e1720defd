"""Poison image sets, to measure defenses: `craft("badnets", images, target_class=0)`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puregen_transforms.attacks.attack import Attack as Attack
    from puregen_transforms.attacks.attack import Attacker as Attacker
    from puregen_transforms.attacks.poison import Poison as Poison
    from puregen_transforms.attacks.registry import ATTACKS as ATTACKS
    from puregen_transforms.attacks.registry import craft as craft

__all__ = ["ATTACKS", "Attack", "Attacker", "Poison", "craft"]

_HOMES = {"ATTACKS": "registry", "Attack": "attack", "Attacker": "attack", "Poison": "poison", "craft": "registry"}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that the package itself imports no torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

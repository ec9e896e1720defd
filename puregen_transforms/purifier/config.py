"""What to do to an image, as frozen data: configs with the paper's defaults, and the recipe of a `PureGen`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

METHODS = ("ebm", "ddpm", "naive", "reps", "filt", "adaptive", "jpeg")
"""Every method of the public API."""

AVAILABLE_METHODS = ("ebm",)
"""The methods this version runs."""

DTYPES = ("auto", "float32", "bfloat16", "float16")

ALGORITHM_VERSION = 1
"""Raised whenever the same recipe and weights give other pixels, so that caches of old results are not reused."""


@dataclass(frozen=True, kw_only=True)
class LangevinConfig:
    """Langevin steps on an energy (PureGen section 3.2, published code).

    Args:
        steps: 150 from scratch; 500 in linear and 1000 in fine-tune transfer.
        step_size: in image units (the range is 2 wide).
        temperature: divides the energy.
    """

    steps: int = 150
    step_size: float = 1.25e-2
    temperature: float = 1e-4

    def __post_init__(self) -> None:
        _check_count("steps", self.steps, smallest=0)
        for name in ("step_size", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` above 0, but got {getattr(self, name)!r}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a `PureGen` makes of an image, weights aside.

    Args:
        method: which stages run; see `METHODS`.
        checkpoint: of the energy network; None is the packaged default.
        revision: of the checkpoint, where it is a Hub repo.
        ebm_steps: Langevin steps; None means the paper's 150 (from scratch).
        dynamics: "paper" is the published constant noise at every step.
        dtype: arithmetic of the network; "auto" takes bfloat16 where the hardware has it.
        seed: of the noise; None draws one from torch's global generator at every call.
        columns: which entries of a sample are images, where that is ambiguous.
    """

    method: str = "ebm"
    checkpoint: str | None = None
    revision: str | None = None
    ebm_steps: int | None = None
    dynamics: str = "paper"
    dtype: str = "auto"
    seed: int | None = None
    columns: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        _check_choice("method", self.method, METHODS)
        if self.method not in AVAILABLE_METHODS:
            raise ValueError(
                f"Method {self.method!r} is not in this version of puregen-transforms; "
                f"it has {', '.join(map(repr, AVAILABLE_METHODS))}."
            )
        _check_choice("dynamics", self.dynamics, ("paper", "annealed"))
        if self.dynamics != "paper":
            raise ValueError(f"Dynamics {self.dynamics!r} is not in this version of puregen-transforms; use 'paper'.")
        _check_choice("dtype", self.dtype, DTYPES)
        if self.ebm_steps is None:
            object.__setattr__(self, "ebm_steps", LangevinConfig.steps)
        _check_count("ebm_steps", self.ebm_steps, smallest=0)
        if self.seed is not None:
            _check_count("seed", self.seed, smallest=None)
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))

    @property
    def langevin(self) -> LangevinConfig:
        """Settings of the Langevin stage."""
        assert self.ebm_steps is not None
        return LangevinConfig(steps=self.ebm_steps)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record of every setting."""
        return {**asdict(self), "columns": None if self.columns is None else list(self.columns)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`; a key that no field has is an error."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"Expected recipe settings among {sorted(known)}, but got {unknown} too.")
        return cls(**values)

    def digest(self, weights_sha256: str) -> str:
        """Hex name of the results: recipe, weights and algorithm version."""
        content = {"recipe": self.to_dict(), "weights": weights_sha256, "algorithm": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}.")


def _check_count(name: str, value: Any, *, smallest: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or (smallest is not None and value < smallest):
        bound = "" if smallest is None else f" of {smallest} or more"
        raise ValueError(f"Expected `{name}` to be an integer{bound}, but got {value!r}.")

"""What a `PureGen` does to an image, weights aside, as frozen data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from puregen_transforms.purifier.config import (
    DiffusionConfig,
    LangevinConfig,
    check_choice,
    check_count,
    check_positive,
    unknown_options,
)

DTYPES = ("auto", "float32", "bfloat16", "float16")

ALGORITHM_VERSION = 3
"""Raised whenever the same recipe and weights give other pixels, so that caches of old results are not reused."""

DYNAMICS: Mapping[str, LangevinConfig] = {
    "paper": LangevinConfig(),
    "cooled": LangevinConfig(temperature=5e-5),
    "annealed": LangevinConfig(noise="annealed"),
}
"""Langevin steps by name: noise, and temperature unless one is given. "paper" is exactly the published chain."""

_EBM = {"checkpoint": None, "dynamics": "paper", "temperature": None}
_DDPM = {
    "ddpm_checkpoint": None,
    "ddpm_solver": DiffusionConfig.solver,
    "ddpm_inference_steps": None,
}

METHOD_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ebm": {**_EBM, "dynamics": "cooled", "ebm_steps": 150},
    "ddpm": {**_DDPM, "ddpm_steps": 75},
    "naive": {**_EBM, **_DDPM, "ebm_steps": 150, "ddpm_steps": 75},
    "reps": {**_EBM, **_DDPM, "ebm_steps": 10, "ddpm_steps": 50, "reps": 5},
    "filt": {
        **_EBM,
        **_DDPM,
        "ebm_steps": 0,
        "ddpm_steps": 125,
        "filter_fraction": 0.5,
        "energy_threshold": None,
    },
    "adaptive": {
        **_EBM,
        **_DDPM,
        "dynamics": "annealed",
        "temperature": 5e-5,
        "ebm_steps": 150,
        "ddpm_steps": 75,
        "filter_fraction": 0.1,
        "energy_threshold": None,
    },
    "jpeg": {"jpeg_quality": 75},
}
"""The options each method uses, with the paper's values for training from scratch (Table 10, appendix D.2).

Not the paper's are "adaptive", and the temperature of "ebm": classifiers trained on what it gave with the packaged
network learned the attack half as often as at the published one (`benchmarks/dynamics_tradeoff.py`).
"""

METHODS = tuple(METHOD_OPTIONS)

_FORMER = ("revision", "ddpm_revision")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a `PureGen` makes of an image, weights aside.

    An option that is None takes the method's value in `METHOD_OPTIONS`; one that the method does not use has
    to stay None.

    Args:
        method: which stages run; see `METHODS`.
        checkpoint: of the energy network; None is the packaged default.
        ddpm_checkpoint: of the noise predictor; None is the packaged default.
        ebm_steps: Langevin steps.
        dynamics: of the Langevin steps; see `DYNAMICS`.
        temperature: of the Langevin steps; divides the energy. None is that of the dynamics.
        ddpm_steps: diffusion steps.
        ddpm_solver: see `DiffusionConfig`.
        ddpm_inference_steps: network calls of the solver; None is one per step.
        reps: how often "reps" goes through its steps.
        filter_fraction: share of a data set, by highest energy, that `PureGen.fit` sets the threshold for.
        energy_threshold: raw energy from which "filt" and "adaptive" act on an image.
        jpeg_quality: 1 to 100.
        dtype: arithmetic of the networks; "auto" takes bfloat16 where the hardware has it.
        seed: of the noise; None draws one from torch's global generator at every call.
        columns: which entries of a sample are images, where that is ambiguous.

    Raises:
        ValueError: an option out of range, unknown, or not used by `method`.
    """

    method: str = "ebm"
    checkpoint: str | None = None
    ddpm_checkpoint: str | None = None
    ebm_steps: int | None = None
    dynamics: str | None = None
    temperature: float | None = None
    ddpm_steps: int | None = None
    ddpm_solver: str | None = None
    ddpm_inference_steps: int | None = None
    reps: int | None = None
    filter_fraction: float | None = None
    energy_threshold: float | None = None
    jpeg_quality: int | None = None
    dtype: str = "auto"
    seed: int | None = None
    columns: tuple[str | int, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        used = METHOD_OPTIONS[self.method]
        for name in _SETTINGS:
            if name not in used and getattr(self, name) is not None:
                raise ValueError(
                    f"Method {self.method!r} does not use `{name}`. Leave it out, or choose another method."
                )
            if getattr(self, name) is None:
                object.__setattr__(self, name, used.get(name))
        check_choice("dtype", self.dtype, DTYPES)
        if self.dynamics is not None:
            check_choice("dynamics", self.dynamics, tuple(DYNAMICS))
            if self.temperature is None:
                object.__setattr__(self, "temperature", DYNAMICS[self.dynamics].temperature)
        for name in ("ebm_steps", "ddpm_steps"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), smallest=0)
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        # The stages' own checks, now rather than at the first image.
        _ = self.langevin, self.diffusion
        if self.reps is not None:
            check_count("reps", self.reps, smallest=1, largest=100)
        if self.jpeg_quality is not None:
            check_count("jpeg_quality", self.jpeg_quality, smallest=1, largest=100)
        if self.filter_fraction is not None and not 0 < self.filter_fraction <= 1:
            raise ValueError(f"Expected `filter_fraction` above 0 and up to 1, but got {self.filter_fraction!r}.")
        if self.energy_threshold is not None and not math.isfinite(self.energy_threshold):
            raise ValueError(f"Expected a finite `energy_threshold`, but got {self.energy_threshold!r}.")
        if self.seed is not None:
            check_count("seed", self.seed, smallest=None)
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))

    @property
    def uses_ebm(self) -> bool:
        """Whether the method needs the energy network."""
        return "checkpoint" in METHOD_OPTIONS[self.method]

    @property
    def uses_ddpm(self) -> bool:
        """Whether the method needs the noise predictor."""
        return "ddpm_checkpoint" in METHOD_OPTIONS[self.method]

    @property
    def uses_threshold(self) -> bool:
        """Whether the method acts on an image by its energy."""
        return "energy_threshold" in METHOD_OPTIONS[self.method]

    @property
    def langevin(self) -> LangevinConfig | None:
        """Settings of the Langevin stage, if the method has one."""
        if self.ebm_steps is None or self.dynamics is None or self.temperature is None:
            return None
        noise = DYNAMICS[self.dynamics].noise
        return LangevinConfig(steps=self.ebm_steps, temperature=self.temperature, noise=noise)

    @property
    def diffusion(self) -> DiffusionConfig | None:
        """Settings of the diffusion stage, if the method has one."""
        if self.ddpm_steps is None or self.ddpm_solver is None:
            return None
        return DiffusionConfig(
            steps=self.ddpm_steps, solver=self.ddpm_solver, inference_steps=self.ddpm_inference_steps
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record of every setting."""
        return {**asdict(self), "columns": None if self.columns is None else list(self.columns)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Inverse of `to_dict`; a key that no field has is an error."""
        # Records of before a revision became part of the checkpoint say that none was given.
        values = {name: value for name, value in values.items() if name not in _FORMER or value is not None}
        if problem := unknown_options(values, [field.name for field in fields(cls)]):
            raise ValueError(f"Expected the settings of a recipe, but got {problem}")
        return cls(**values)

    def digest(self, weights: Mapping[str, str]) -> str:
        """Hex name of the results: recipe, sha256 of the weights of each network, and algorithm version."""
        content = {"recipe": self.to_dict(), "weights": dict(weights), "algorithm": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_SETTINGS = tuple(field.name for field in fields(Recipe) if field.name not in ("method", "dtype", "seed", "columns"))

"""The options of a `PureGen`, as frozen data."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args

from puregen_transforms.purifier.config import (
    DiffusionConfig,
    LangevinConfig,
    Solver,
    check_choice,
    check_count,
    check_positive,
    unknown_options,
)

Method = Literal["ebm", "ddpm", "naive", "reps", "filt", "adaptive", "eclipse", "onestep", "jpeg"]
Dynamics = Literal["paper", "cooled", "annealed"]
Strength = Literal["light", "standard", "strong"]
DType = Literal["auto", "float32", "bfloat16", "float16"]

METHODS = get_args(Method)

LARGEST_NOISE = 128.0
"""Of "onestep", in units of 1/255: beyond it little is left of an image."""

ALGORITHM_VERSION = 4
"""Raised whenever the same options and weights give other pixels, so that caches of old results are not reused."""

CHECKPOINTS: Mapping[str, Literal["ebm", "ddpm", "denoiser"]] = {
    "checkpoint": "ebm",
    "ddpm_checkpoint": "ddpm",
    "denoiser_checkpoint": "denoiser",
}
"""The options that name a network, and of what kind."""

DYNAMICS: Mapping[Dynamics, LangevinConfig] = {
    "paper": LangevinConfig(),
    "cooled": LangevinConfig(temperature=5e-5),
    "annealed": LangevinConfig(noise="annealed"),
}
"""Langevin steps by name: noise, and temperature unless one is given. "paper" is exactly the published chain."""

STRENGTHS: Mapping[Strength, float] = {"light": 10.0, "standard": 25.0, "strong": 50.0}
"""Noise of "onestep" by name: its standard deviation, in units of 1/255."""

_EBM = {"checkpoint": None, "dynamics": "paper", "temperature": None}
_DDPM = {
    "ddpm_checkpoint": None,
    "ddpm_solver": DiffusionConfig.solver,
    "ddpm_inference_steps": None,
}

METHOD_OPTIONS: Mapping[Method, Mapping[str, Any]] = {
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
    "eclipse": {
        **_DDPM,
        "ddpm_steps": 12,
        "ddpm_solver": "ddim",
        "ddpm_inference_steps": 1,
        "despeckle_threshold": 60,
    },
    "onestep": {"denoiser_checkpoint": None, "strength": "standard", "noise_level": None},
    "jpeg": {"jpeg_quality": 75},
}
"""The options each method uses, with the paper's values for training from scratch (Table 10, appendix D.2).

The steps of "eclipse" are ECLIPSE's (Wang et al. 2024): 12 of our schedule add as much noise as 100 of theirs, a cosine
schedule of 4000: a deviation of 6.4 of 255. Its chain, with a call for each step, is ddpm_solver="ddpm",
ddpm_inference_steps=12, despeckle_threshold=255.

Not the papers' are "adaptive"; the temperature of "ebm": classifiers trained on what it gave with the packaged network
learned the attack half as often as at the published one (`benchmarks/dynamics_tradeoff.py`); and one call and the
medians in "eclipse" (`benchmarks/availability.py`).
"""

_FORMER = ("revision", "ddpm_revision")


@dataclass(frozen=True, kw_only=True)
class PureGenConfig:
    """Every option that decides how a `PureGen` changes an image.

    An option that is None takes the method's value in `METHOD_OPTIONS`; one that the method does not use has
    to stay None.

    Args:
        method: stages to run: "ebm" runs Langevin steps on an energy network; "ddpm" noises an image and denoises it
            with a diffusion network; "naive" runs the one, then the other; "reps" a few steps of each, repeatedly;
            "filt" purifies only the share of a data set with the highest energies; "adaptive" gives an image as much
            as its energy says it needs: Langevin steps if it is suspicious, diffusion if it still is, and twice the
            diffusion steps if that was not enough; "eclipse" replaces single pixels that stand out, then is "ddpm" with
            little noise, for sets made unlearnable: its other half is `eclipse_compensation` in training; "onestep"
            adds noise to an image of any size and takes it off again with one call of a small network, once with either
            sign: for photographs; "jpeg" is JPEG compression, the baseline.
        checkpoint: energy network: a catalogue name, a Hub repository owner/name or owner/name@revision (a branch, tag
            or commit), or a folder; default: the one in the package.
        ddpm_checkpoint: diffusion network: a catalogue name, a Hub repository owner/name or owner/name@revision, or a
            folder; default: the one in the package.
        denoiser_checkpoint: network of "onestep": a catalogue name, a Hub repository owner/name or
            owner/name@revision, or a folder; default: the one in the package.
        ebm_steps: Langevin steps; default: the paper's number for the method, 150 for "ebm".
        dynamics: noise and temperature of the Langevin steps: "paper" is exactly the published chain; "cooled", the
            default of "ebm", is that chain at half the temperature; "annealed" lets its noise fall to none.
        temperature: divides the energy in the Langevin steps, so that a lower one moves images further; default: that
            of the dynamics, in the paper 1e-4.
        ddpm_steps: diffusion steps, of 1000, that an image is noised by; default: the paper's number for the method,
            75 for "ddpm", 12 for "eclipse".
        ddpm_solver: way to denoise: "ddpm" is the paper's chain; "ddim" and "dpmsolver++" need fewer network calls.
            Default: "ddpm", of "eclipse" "ddim".
        ddpm_inference_steps: network calls of the solver; default: one per diffusion step, of "eclipse" one in all.
        despeckle_threshold: difference to its neighbors, all but at most one, in units of 1/255, beyond which "eclipse"
            replaces a pixel by the median around it; 255 replaces none. Default: 60.
        reps: how often "reps" goes through its steps; default: 5.
        filter_fraction: share of a data set, by highest energy, that "filt" and "adaptive" act on; default: 0.5 for
            "filt", 0.1 for "adaptive".
        energy_threshold: raw energy from which "filt" and "adaptive" act on an image; default: set by a first pass over
            the data set (`PureGen.fit`).
        strength: how much noise "onestep" adds, by name; default: standard.
        noise_level: how much it adds, as a standard deviation in units of 1/255, up to 128, of which the packaged
            network learned up to 80; default: that of the strength.
        jpeg_quality: quality of "jpeg", 1 to 100; default: 75.
        dtype: arithmetic of the networks; "auto" takes bfloat16 where the device is known to have it in hardware, else
            float32.
        seed: decides the noise: the same seed gives the same images.
        columns: keys or positions of the images in a sample that holds more than one.

    Raises:
        ValueError: an option out of range, unknown, or not used by `method`.
    """

    method: Method = "ebm"
    checkpoint: str | None = None
    ddpm_checkpoint: str | None = None
    denoiser_checkpoint: str | None = None
    ebm_steps: int | None = None
    dynamics: Dynamics | None = None
    temperature: float | None = None
    ddpm_steps: int | None = None
    ddpm_solver: Solver | None = None
    ddpm_inference_steps: int | None = None
    despeckle_threshold: int | None = None
    reps: int | None = None
    filter_fraction: float | None = None
    energy_threshold: float | None = None
    strength: Strength | None = None
    noise_level: float | None = None
    jpeg_quality: int | None = None
    dtype: DType = "auto"
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
        check_choice("dtype", self.dtype, get_args(DType))
        if self.dynamics is not None:
            check_choice("dynamics", self.dynamics, get_args(Dynamics))
            if self.temperature is None:
                object.__setattr__(self, "temperature", DYNAMICS[self.dynamics].temperature)
        if self.strength is not None:
            check_choice("strength", self.strength, get_args(Strength))
            if self.noise_level is None:
                object.__setattr__(self, "noise_level", STRENGTHS[self.strength])
        if self.noise_level is not None:
            check_positive("noise_level", self.noise_level, largest=LARGEST_NOISE)
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
        if self.despeckle_threshold is not None:
            check_count("despeckle_threshold", self.despeckle_threshold, smallest=0, largest=255)
        share, threshold = self.filter_fraction, self.energy_threshold
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            raise ValueError(f"Expected `filter_fraction` above 0 and up to 1, but got {share!r}.")
        if threshold is not None and not (_is_number(threshold) and math.isfinite(threshold)):
            raise ValueError(f"Expected a finite `energy_threshold`, but got {self.energy_threshold!r}.")
        if self.seed is not None:
            check_count("seed", self.seed, smallest=None)
        for name in CHECKPOINTS:
            if not isinstance(getattr(self, name), (str, NoneType)):
                raise ValueError(f"Expected `{name}` to be a name or a path, but got {getattr(self, name)!r}.")
        if self.columns is not None:
            object.__setattr__(self, "columns", checked_columns(self.columns))

    @property
    def uses_ebm(self) -> bool:
        """Whether the method needs the energy network."""
        return "checkpoint" in METHOD_OPTIONS[self.method]

    @property
    def uses_ddpm(self) -> bool:
        """Whether the method needs the noise predictor."""
        return "ddpm_checkpoint" in METHOD_OPTIONS[self.method]

    @property
    def uses_denoiser(self) -> bool:
        """Whether the method needs the denoiser."""
        return "denoiser_checkpoint" in METHOD_OPTIONS[self.method]

    @property
    def uses_threshold(self) -> bool:
        """Whether the method acts on an image by its energy."""
        return "energy_threshold" in METHOD_OPTIONS[self.method]

    @property
    def langevin(self) -> LangevinConfig | None:
        """Return the settings of the Langevin stage, if the method has one."""
        if self.ebm_steps is None or self.dynamics is None or self.temperature is None:
            return None
        noise = DYNAMICS[self.dynamics].noise
        return LangevinConfig(steps=self.ebm_steps, temperature=self.temperature, noise=noise)

    @property
    def diffusion(self) -> DiffusionConfig | None:
        """Return the settings of the diffusion stage, if the method has one."""
        if self.ddpm_steps is None or self.ddpm_solver is None:
            return None
        return DiffusionConfig(
            steps=self.ddpm_steps, solver=self.ddpm_solver, inference_steps=self.ddpm_inference_steps
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every option, JSON-ready."""
        return {**asdict(self), "columns": None if self.columns is None else list(self.columns)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PureGenConfig:
        """Rebuild from `to_dict`; a key that no field has is an error."""
        # Records of before a revision became part of the checkpoint say that none was given.
        values = {name: value for name, value in values.items() if name not in _FORMER or value is not None}
        if problem := unknown_options(values, [field.name for field in fields(cls)]):
            raise ValueError(f"Expected the settings of a PureGen, but got {problem}")
        return cls(**values)

    def digest(self, weights: Mapping[str, str]) -> str:
        """Name the results: a hash of the options, the sha256 of each network's weights, and the algorithm version."""
        options = {name: value for name, value in self.to_dict().items() if value is not None}
        content = {"recipe": options, "weights": dict(weights), "algorithm": ALGORITHM_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def checked_columns(columns: Any) -> tuple[str | int, ...]:
    """Check keys or positions of images, one or several, and return them; anything else is a ValueError."""
    several = isinstance(columns, Iterable) and not isinstance(columns, str)
    found = tuple(columns) if several else (columns,)
    if any(not isinstance(column, (str, int)) or isinstance(column, bool) for column in found):
        raise ValueError(f"Expected `columns` to be keys or positions, but got {columns!r}.")
    return found


_SETTINGS = tuple(
    field.name for field in fields(PureGenConfig) if field.name not in ("method", "dtype", "seed", "columns")
)

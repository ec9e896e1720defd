"""Settings of single stages, as frozen data with the paper's defaults."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, get_args

NoiseName = Literal["constant", "annealed"]
Solver = Literal["ddpm", "ddim", "dpmsolver++"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class LangevinConfig:
    """Langevin steps on an energy (PureGen section 3.2, published code).

    Args:
        steps: 150 from scratch; 500 in linear and 1000 in fine-tune transfer.
        step_size: in image units (the range is 2 wide).
        temperature: divides the energy; a lower one moves images further.
        noise: "constant" is the published one, the same at every step; "annealed" falls from that to none along
            half a cosine, so that the chain ends in plain descent.
    """

    steps: int = 150
    step_size: float = 1.25e-2
    temperature: float = 1e-4
    noise: NoiseName = "constant"

    def __post_init__(self) -> None:
        check_count("steps", self.steps, smallest=0)
        check_positive("step_size", self.step_size)
        check_positive("temperature", self.temperature)
        check_choice("noise", self.noise, get_args(NoiseName))

    @property
    def noise_scales(self) -> list[float] | None:
        """One factor on the noise per step; None is 1 throughout."""
        if self.noise == "constant":
            return None
        return [0.5 * (1 + math.cos(math.pi * (step + 1) / self.steps)) for step in range(self.steps)]


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Truncated diffusion (PureGen section 3.3).

    Args:
        steps: how far images are noised, of the schedule's 1000; 75 from scratch, 125 in transfer.
        solver: "ddpm" is the paper's ancestral chain; "ddim" and "dpmsolver++" are deterministic after the
            first noise and need fewer network calls.
        inference_steps: network calls; None is one per step.
    """

    steps: int = 75
    solver: Solver = "ddpm"
    inference_steps: int | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps, smallest=0)
        check_choice("solver", self.solver, get_args(Solver))
        if self.inference_steps is not None:
            check_count("inference_steps", self.inference_steps, smallest=1)
            if self.steps and self.inference_steps > self.steps:
                raise ValueError(
                    f"Expected at most one network call per step ({self.steps}), but got {self.inference_steps}."
                )


def explains_unknown_options(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's TypeError about an option it does not have say which one may be meant."""
    known = tuple(name for name in inspect.signature(function).parameters if name != "self")

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        if problem := unknown_options(options, known):
            raise TypeError(f"Expected options of PureGen, but got {problem}")
        return function(*args, **options)

    return checked


def unknown_options(given: Iterable[str], known: Sequence[str]) -> str:
    """Name the options that are not known, and those that may be meant; empty if all are known."""
    return " ".join(_in_words(name, known) for name in given if name not in known)


def _in_words(unknown: str, known: Sequence[str]) -> str:
    if unknown.removeprefix("ddpm_") == "revision":
        checkpoint = f"{unknown.removesuffix('revision')}checkpoint"
        return f'`{unknown}`, which is no option: write {checkpoint}="owner/name@revision".'
    # "steps" is not like "ddpm_inference_steps" as a string, but may well stand for it.
    meant = [name for name in known if unknown in name.split("_")] or get_close_matches(unknown, known)
    if not meant:
        return f"`{unknown}`, which is no option. There are {', '.join(known)}."
    return f"`{unknown}`, which is no option. Did you mean {' or '.join(f'`{name}`' for name in meant)}?"


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, but got {value!r}.")


def check_count(name: str, value: Any, *, smallest: int | None, largest: int | None = None) -> None:
    """Raise ValueError unless `value` is an integer from `smallest` to `largest`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and (smallest is None or value >= smallest) and (largest is None or value <= largest):
        return
    bound = "" if smallest is None else f" of {smallest} or more" if largest is None else f" in [{smallest}, {largest}]"
    raise ValueError(f"Expected `{name}` to be an integer{bound}, but got {value!r}.")


def check_positive(name: str, value: Any, *, largest: float | None = None) -> None:
    """Raise ValueError unless `value` is a finite number above 0, and at most `largest`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf or (largest is not None and value > largest):
        bound = "" if largest is None else f" and up to {largest:g}"
        raise ValueError(f"Expected `{name}` above 0{bound}, but got {value!r}.")

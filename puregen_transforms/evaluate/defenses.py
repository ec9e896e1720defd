"""Defenses as the harness sees them.

A defense is a plug: a class registered by `plug`, whose settings are its fields. It is given a labeled set and says
what the victim is to learn instead: other images, fewer rows, a hook of the training loop, or several of them; and, if
it is a detector, which rows it holds for poisoned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from puregen_transforms.defenses.epic import EpicDefense
from puregen_transforms.defenses.friends import FriendsDefense
from puregen_transforms.evaluate.cells import DefenseSpec
from puregen_transforms.evaluate.portable import portable
from puregen_transforms.evaluate.store import Store, fingerprint
from puregen_transforms.inspection.audit import find_patterns
from puregen_transforms.inspection.statistics import robust_scores
from puregen_transforms.purifier.puregen_config import PureGenConfig
from puregen_transforms.train.classifier import TrainingDefense
from puregen_transforms.transforms.fitting import threshold_of
from puregen_transforms.transforms.puregen import PureGen

_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class Task:
    """The set that is to be defended.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        seed: of the victim.
        device: where to work.
        store: of results.
        unpoisoned: the images without poison, to compute what single images become only once; not for defenses.
    """

    images: Tensor
    labels: Tensor
    seed: int
    device: torch.device | str
    store: Store
    unpoisoned: Tensor = field(repr=False)

    def per_image(self, key: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """What a function makes of every row. What it made of rows that no attack alters is kept for other attacks.

        Args:
            key: JSON-ready, all that decides it beside an image and its row.
            change: (n, 3, H, W) uint8 and (n,) int64 rows -> n results, each of its own image and row alone.

        Returns:
            N results.
        """
        rows = torch.arange(len(self.images))
        altered = (self.images != self.unpoisoned).flatten(1).any(1)
        parts = [self._kept(key, change, self.unpoisoned[part], part) for part in rows.split(_CHUNK)]
        result = torch.cat(parts)
        if bool(altered.any()):
            result[altered] = self._kept(key, change, self.images[altered], rows[altered])
        return result

    def some(self, key: Any, change: Callable[[Tensor, Tensor], Tensor], rows: Tensor) -> Tensor:
        """What a function makes of some rows, (n,) int64; see `per_image`."""
        return self._kept(key, change, self.images[rows], rows)

    def _kept(self, key: Any, change: Callable[[Tensor, Tensor], Tensor], images: Tensor, rows: Tensor) -> Tensor:
        return self.store.tensors(
            "per-image", [key, fingerprint(images, rows)], lambda: {"result": change(images, rows)}
        )["result"]


@dataclass(frozen=True, eq=False)
class Defended:
    """What the victim learns.

    Args:
        images: (N, 3, H, W) uint8, of all rows of the set.
        rows: (n,) int64, those that are learned; None is all.
        training: a hook of the training loop.
        suspected: gives (N,) bool, rows held for poisoned, once the victim is trained; None if nothing is said.
        scores: (N,) of suspicion, where there are such.
    """

    images: Tensor
    rows: Tensor | None = None
    training: TrainingDefense | None = None
    suspected: Callable[[], Tensor] | None = None
    scores: Tensor | None = None


class Plug(Protocol):
    """A defense with its settings."""

    def identity(self) -> Any:
        """JSON-ready, what decides its results beside its settings, such as the hash of weights."""

    def __call__(self, task: Task) -> Defended:
        """Defend a set."""


PLUGS: dict[str, Callable[..., Plug]] = {}

P = TypeVar("P", bound=Callable[..., Plug])


def plug(name: str) -> Callable[[P], P]:
    """Register a defense by a name."""

    def register(made: P) -> P:
        PLUGS[name] = made
        return made

    return register


def build_defense(spec: DefenseSpec) -> Plug:
    """The defense of a cell.

    Raises:
        ValueError: no such defense.
    """
    if spec.plug not in PLUGS:
        raise ValueError(f"Expected a defense out of {', '.join(PLUGS)}, but got {spec.plug!r}.")
    return PLUGS[spec.plug](**spec.settings)


@plug("none")
@dataclass(frozen=True)
class NoDefense:
    """The set as it is."""

    def identity(self) -> Any:
        """Nothing."""
        return None

    def __call__(self, task: Task) -> Defended:
        """See `Plug`."""
        return Defended(task.images)


@plug("puregen")
@dataclass(frozen=True)
class Purify:
    """Any method of `PureGen`, once over the whole set; an image's noise goes by its row.

    Args:
        options: of `PureGen`.
    """

    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> Any:
        """The digest of recipe and weights."""
        return _digest(self._transform("cpu"))

    def __call__(self, task: Task) -> Defended:
        """See `Plug`."""
        transform = self._transform(task.device)
        if transform.config.uses_threshold:
            return self._where_suspicious(task, transform)
        return Defended(task.per_image(["puregen", _digest(transform)], _purified(transform)))

    def of(self, task: Task, rows: Tensor) -> Tensor:
        """Some rows purified; not for methods with a threshold."""
        transform = self._transform(task.device)
        return task.some(["puregen", _digest(transform)], _purified(transform), rows)

    def _where_suspicious(self, task: Task, transform: PureGen) -> Defended:
        """The threshold depends on all rows, so that only those above it are worth keeping."""
        scores = _energies(task)
        assert transform.config.filter_fraction is not None
        threshold = threshold_of(scores, transform.config.filter_fraction)
        fitted = PureGen(**{**transform.to_dict(), "energy_threshold": threshold}, device=task.device)
        suspected = scores >= threshold
        images, rows = task.images.clone(), suspected.nonzero().flatten()
        images[rows] = task.some(["puregen", _digest(fitted)], _purified(fitted), rows)
        return Defended(images, suspected=lambda: suspected, scores=scores)

    def _transform(self, device: torch.device | str) -> PureGen:
        return PureGen(**{"seed": 0, **self.options}, device=device)


@plug("inspect")
@dataclass(frozen=True)
class Inspect:
    """What `puregen inspect` finds: images that carry a pattern in common with others. Labels are used.

    Perturbations made for each image by itself have no pattern in common, but may lift energies out of the set's range.

    Args:
        outlier: robust standard deviations above the set's median energy from which an image is taken for poison,
            pattern or not; None looks at patterns alone.
        carriers: options of `PureGen` to purify them with; None leaves them out of training.
        others: the same for all other images; None leaves them as they are.
    """

    outlier: float | None = None
    carriers: Mapping[str, Any] | None = None
    others: Mapping[str, Any] | None = None

    def identity(self) -> Any:
        """The digests of recipes and weights."""
        given = [self.carriers, self.others, {}]
        return [None if options is None else Purify(options).identity() for options in given]

    def __call__(self, task: Task) -> Defended:
        """See `Plug`."""
        suspected, scores = self._carriers(task), None
        if self.outlier is not None:
            scores = robust_scores(_energies(task))
            suspected = suspected | (scores > self.outlier)
        images, rows = task.images, torch.arange(len(task.images))
        if self.others is not None:
            images = Purify(self.others)(task).images
        if self.carriers is None:
            return Defended(images, rows=rows[~suspected], suspected=lambda: suspected, scores=scores)
        images = images.clone()
        images[suspected] = Purify(self.carriers).of(task, suspected.nonzero().flatten())
        return Defended(images, suspected=lambda: suspected, scores=scores)

    def _carriers(self, task: Task) -> Tensor:
        return task.store.tensors(
            "inspected",
            [PureGen().digest, fingerprint(task.images, task.labels)],
            lambda: {"carriers": find_patterns(task.images, task.labels, device=task.device) > 0},
        )["carriers"]


@plug("friends")
@dataclass(frozen=True)
class Friends:
    """FrieNDs; see `FriendsDefense`."""

    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> Any:
        """Nothing."""
        return None

    def __call__(self, task: Task) -> Defended:
        """See `Plug`."""
        return Defended(task.images, training=FriendsDefense(**{"seed": task.seed, **self.options}))


@plug("epic")
@dataclass(frozen=True)
class Epic:
    """EPIC; see `EpicDefense`."""

    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> Any:
        """Nothing."""
        return None

    def __call__(self, task: Task) -> Defended:
        """See `Plug`."""
        defense = EpicDefense(**self.options)
        return Defended(task.images, training=defense, suspected=defense.dropped)


def _digest(transform: PureGen) -> str:
    """That of the transform, but the same wherever its checkpoints lie: the weights themselves are in it."""
    return PureGenConfig.from_dict(portable(transform.to_dict())).digest(transform.weights)


def _purified(transform: PureGen) -> Callable[[Tensor, Tensor], Tensor]:
    seed = transform.config.seed or 0
    return lambda images, rows: transform.purifier(images, sample_ids=rows, seed=seed)


def _energies(task: Task) -> Tensor:
    transform = PureGen(device=task.device)
    weights = transform.digest
    return task.per_image(["energy", weights], lambda images, rows: transform.energy(images))

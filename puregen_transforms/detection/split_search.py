"""Part the images of one class in two, where what a network makes of them falls into two groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from puregen_transforms.detection.latent_space import principal_axes, two_means
from puregen_transforms.detection.statistics import binomial_tail

COMPONENTS = 40
"""Principal components of a space; more let a classifier part anything in classes of a thousand images."""

FOLDS, ROUNDS = 5, 5
SURE = 0.8
"""Posterior from which on an image teaches the classifier of the next round."""

LEAST_SHARE = 0.02
"""Share of a class that the smaller side has at least: a handful of outliers is no group."""

FARTHEST = 5.0
"""Standard deviations at which single values are held."""

_RIDGE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """One view of what a network makes of the images of a class.

    Args:
        name: of the layers.
        own: (n, k) float64 principal components, each of variance one.
        reference: (m, k) the same of images without poison, which had no part in choosing the components.
        same_class: whether the references are of the class; otherwise they are of others, and only tell the sides
            apart.
    """

    name: str
    own: Tensor
    reference: Tensor
    same_class: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Two sides of a class, the first of which has fewer references than its share; of other classes, fewer than half.

    Args:
        space: name of the space in which it was found.
        posterior: (n,) float64, how surely an image is on the first side.
        distance: between the two sides' means, in root mean squares of their standard deviations.
        references: how many there are, and how many of them are on the first side.
        chance: that so few references fall on the first side, if half of its share were to be expected; half, since
            images that a network was not trained on lie a little elsewhere. None without references of the class.
    """

    space: str
    posterior: Tensor
    distance: float
    references: tuple[int, int]
    chance: float | None

    @property
    def share(self) -> float:
        """Give the share of the class that is on the first side."""
        return share_of(self.posterior)


def share_of(posterior: Tensor) -> float:
    """Give the share of images that are rather on the first side than on the second."""
    return float((posterior > 0.5).double().mean())


def make_space(name: str, parts: Sequence[Tensor], references: Sequence[Tensor], *, same_class: bool = True) -> Space:
    """Put columns on one scale, and reduce them to principal components.

    Args:
        name: of the space.
        parts: (n, columns) each, of the images of a class.
        references: (m, columns) each, of images without poison.
        same_class: see `Space`.
    """
    scaled = [_scaled(part.double(), part.double()) for part in parts]
    own, moved = torch.cat(scaled, 1), []
    for part, reference in zip(parts, references, strict=True):
        moved.append(_scaled(reference.double(), part.double()))
    middle = own.mean(0)
    values, axes = principal_axes(own - middle, COMPONENTS)
    kept = values > 0
    axes = axes[:, kept] / (values[kept] / math.sqrt(max(len(own) - 1, 1)))
    reference = (torch.cat(moved, 1) - middle) @ axes
    return Space(name=name, own=(own - middle) @ axes, reference=reference, same_class=same_class)


def search_class(spaces: Sequence[Space], witness: Tensor | None, *, seed: int) -> list[Split]:
    """Find splits of a class, from several beginnings in each space.

    Args:
        spaces: of the same images.
        witness: (n,) a suspicion to begin with; None is none.
        seed: of folds and beginnings.
    """
    count = len(spaces[0].own)
    generator = torch.Generator().manual_seed(seed)
    folds = torch.randperm(count, generator=generator) % FOLDS
    found = []
    for space in spaces:
        for first, second in _beginnings(space, witness, folds, generator):
            if (split := climb(space, first, second, folds)) is not None:
                found.append(split)
    return found


def climb(space: Space, first: Tensor, second: Tensor, folds: Tensor, *, rounds: int = ROUNDS) -> Split | None:
    """Let a classifier of two groups and two Gaussians on its values correct each other.

    A classifier sees the two groups; its values for images that it was not trained on are described by two Gaussians;
    images that clearly belong to one of these are the next groups. In a class of one kind the values form one heap.

    Args:
        space: of the images.
        first: (n,) bool, one group to begin with.
        second: (n,) bool, the other.
        folds: (n,) int64, which images are left out together.
        rounds: how often.

    Returns:
        None if one side vanishes.
    """
    least = max(FOLDS, int(LEAST_SHARE / 4 * len(folds)))
    for _ in range(rounds):
        if min(int(first.sum()), int(second.sum())) < least:
            return None
        values, of_references = cross_fitted(space, first, second, folds)
        between = (values[first].mean() + values[second].mean()) / 2
        posterior, distance = two_gaussians(values, values > between)
        first, second = posterior > SURE, posterior < 1 - SURE
    share = share_of(posterior)
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        return None
    on_side = int(_same_side(of_references, values, posterior).sum())
    count = len(of_references)
    # References of other classes may carry the trigger, too, and more often than the images of this class.
    usual = share if space.same_class else 0.5
    if count and on_side / count / usual > (1 - on_side / count) / (1 - usual):
        posterior, on_side = 1 - posterior, count - on_side
    chance = None
    if count and space.same_class:
        chance = binomial_tail(count - on_side, count, 1 - share_of(posterior) / 2)  # of so many on the other side
    return Split(space=space.name, posterior=posterior, distance=distance, references=(count, on_side), chance=chance)


def cross_fitted(space: Space, first: Tensor, second: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
    """Compute values of a linear classifier of two groups, of each image by one that was not trained on its fold.

    Returns:
        (n,) values of the images, higher on the side of the first group, and (m,) of the references, by one that was
        trained on all.
    """
    values = torch.zeros(len(folds), dtype=torch.float64)
    for fold in range(FOLDS):
        out = folds == fold
        middle, weights = _ridge(space.own[first & ~out], space.own[second & ~out])
        values[out] = (space.own[out] - middle) @ weights
    middle, weights = _ridge(space.own[first], space.own[second])
    return values, (space.reference - middle) @ weights


def against_references(space: Space, folds: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Compute values of a linear classifier of images against references, of each by one that was not trained on it.

    Returns:
        (n,) values of the images and (m,) of the references; higher is less like a reference.
    """
    count = len(space.own)
    own = torch.arange(count + len(space.reference)) < count
    both = Space(name=space.name, own=torch.cat([space.own, space.reference]), reference=space.reference[:0])
    reference_folds = torch.randperm(len(space.reference), generator=generator) % FOLDS
    values, _ = cross_fitted(both, own, ~own, torch.cat([folds, reference_folds]))
    return values[:count], values[count:]


def two_gaussians(values: Tensor, first: Tensor, *, rounds: int = 100) -> tuple[Tensor, float]:
    """Describe values by two Gaussians, by expectation maximization.

    Args:
        values: (n,) float64.
        first: (n,) bool, a group to begin with.
        rounds: most of them.

    Returns:
        (n,) posterior of the Gaussian that began with the group, and the distance of the means in root mean squares of
        the deviations.
    """
    posterior = first.double().clamp(1e-4, 1 - 1e-4)
    floor = 0.05 * values.std() + 1e-12  # so that neither shrinks to one image
    distance = 0.0
    for _ in range(rounds):
        weights = torch.stack([posterior, 1 - posterior])
        sums = weights.sum(1).clamp(min=1e-9)
        means = (weights @ values) / sums
        spreads = ((weights * (values - means[:, None]).square()).sum(1) / sums).sqrt().clamp(min=floor)
        logs = (sums / len(values)).log() - spreads.log() - ((values[:, None] - means) / spreads).square() / 2
        before, posterior = posterior, (logs[:, 0] - logs[:, 1]).sigmoid()
        distance = float((means[0] - means[1]).abs() / spreads.square().mean().sqrt())
        if float((posterior - before).abs().max()) < 1e-4:
            break
    return posterior, distance


def _beginnings(
    space: Space, witness: Tensor | None, folds: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """List pairs of groups to begin with: two clusters; by the witness; by what is least like a reference."""
    if (halves := two_means(space.own, generator=generator, starts=5)) is not None:
        yield halves.second, ~halves.second
    if witness is not None:
        yield witness > witness.quantile(0.8), witness < witness.median()
    if space.same_class and len(space.reference) >= FOLDS:
        values, _ = against_references(space, folds, generator)
        yield values > values.quantile(0.9), values < values.median()


def _ridge(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a linear classifier of two groups that count alike: where its value is 0, and its weights."""
    shares = torch.cat([torch.full((len(part),), 0.5 / max(len(part), 1)).double() for part in (first, second)])
    signs = torch.cat([torch.ones(len(first)), -torch.ones(len(second))]).double()
    both = torch.cat([first, second])
    middle = shares @ both
    differences = both - middle
    covariance = (differences * shares[:, None]).T @ differences
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean().clamp(min=1e-12))
    return middle, torch.linalg.solve(covariance, differences.T @ (shares * signs))


def _same_side(others: Tensor, values: Tensor, posterior: Tensor) -> Tensor:
    """Tell which other values are on the first side, where as many spreads lie between them and both means."""
    first, second = values[posterior > 0.5], values[posterior <= 0.5]
    spreads = first.std().clamp(min=1e-12), second.std().clamp(min=1e-12)
    border = (first.mean() * spreads[1] + second.mean() * spreads[0]) / (spreads[0] + spreads[1])
    return (others > border) == bool(first.mean() > second.mean())


def _scaled(values: Tensor, like: Tensor) -> Tensor:
    """Subtract the median and divide by a robust spread, both of other rows; columns that do not vary there are 0.

    The spread is no smaller than the standard deviation: most values of a channel that is seldom active are the same.
    """
    middle, spread = like.median(0).values, like.std(0, correction=0)
    robust = 1.4826 * (like - middle).abs().median(0).values
    scale = torch.maximum(robust, spread)
    return ((values - middle) / scale.clamp(min=1e-9)).clamp(-FARTHEST, FARTHEST) * (spread > 1e-6)

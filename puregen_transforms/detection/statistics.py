"""Which images stand out by their energy, and which share one perturbation: tensors in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBORS = 4
"""How many others an image must resemble: a shared perturbation takes at least one image more than this."""

NATURAL_SPREAD = 0.05
"""By how much the similarity of clean groups scatters around what chance gives.

In benchmarks/results/inspect.json the classes of clean sets lie at most twice this above it.
"""

NULL_SHIFTS = 4
BLOCK = 8
"""Side of a JPEG block: shifts by multiples of it keep compression artifacts aligned."""

GROUP_NUMBERS = 2**27
"""Numbers of images, gradients or directions compared at once: half a gigabyte of float32."""

_SLICE_NUMBERS = 2**23
"""Numbers transformed at once; the results are the same for any."""

_SAME_PICTURE = 0.98
_THUMBNAIL = 16
_EULER = 0.5772156649


def as_many_as_fit(size: Sequence[int], *, most: int, least: int = 1) -> int:
    """Limit how many RGB images of a (height, width) are held as float32 at once: fewer of large ones."""
    return min(most, max(least, GROUP_NUMBERS // (3 * size[0] * size[1])))


def robust_scores(values: Tensor) -> Tensor:
    """Distance of each value from the median, in robust standard deviations (1.4826 times the median deviation).

    Args:
        values: (N,).

    Returns:
        (N,); all 0 where more than half of the values are equal.
    """
    distance = values - values.median()
    spread = 1.4826 * distance.abs().median()
    return distance / spread if spread > 0 else torch.zeros_like(values)


def clean_limit(values: Tensor, false_alarms: float) -> float:
    """Find the value that clean images exceed as rarely as asked for.

    It is the higher of two: the quantile of a normal distribution fitted to them, which knows of rarer values than few
    images show, and their own quantile, which knows of a longer tail.

    Args:
        values: (N,) of images that are known to be clean; more than one.
        false_alarms: share of clean images above the limit.
    """
    known = values.double()
    normal = known.mean() + known.std() * NormalDist().inv_cdf(1 - false_alarms)
    return float(torch.maximum(normal, known.quantile(1 - false_alarms)))


def mixed_limit(values: Tensor, false_alarms: float) -> float:
    """Find the value that clean images exceed as rarely as asked for, from a set in which some are not clean.

    It is the quantile of the normal distribution with the set's median and median deviation: more clean images exceed
    it where their values have a longer tail.

    Args:
        values: (N,).
        false_alarms: share of clean images above the limit.
    """
    known = values.double()
    spread = 1.4826 * (known - known.median()).abs().median()
    return float(known.median() + spread * NormalDist().inv_cdf(1 - false_alarms))


def binomial_tail(count: int, trials: int, rate: float) -> float:
    """Chance of `count` or more successes in `trials` independent ones of probability `rate`."""
    if count <= 0:
        return 1.0
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(count, trials + 1)
    ]
    largest = max(terms)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(term - largest) for term in terms))


def gumbel_tail(score: float) -> float:
    """Chance that a largest value lies so many standard deviations above the mean of largest values."""
    return -math.expm1(-math.exp(-(score * math.pi / math.sqrt(6) + _EULER)))


def mean_spectrum(directions: Tensor) -> Tensor:
    """Root mean square amplitude of each frequency over images scaled to length 1.

    Args:
        directions: (N, C, H, W).

    Returns:
        (C, H, W // 2 + 1), nowhere 0.
    """
    power = torch.stack([torch.fft.rfft2(_unit(part)).abs().square().sum(0) for part in _slices(directions)]).sum(0)
    amplitude = power.div(len(directions)).sqrt()
    return amplitude.clamp_min(1e-3 * amplitude.max().clamp_min(1e-12))


def whiten(directions: Tensor, spectrum: Tensor) -> Tensor:
    """Divide by the usual spectrum, so that no frequency dominates, and scale to length 1.

    Args:
        directions: (N, C, H, W).
        spectrum: of `mean_spectrum`.

    Returns:
        (N, C * H * W) float32.
    """
    found = torch.empty(len(directions), directions[0].numel(), device=directions.device)
    start = 0
    for part in _slices(directions):
        white = torch.fft.irfft2(torch.fft.rfft2(part.float()) / spectrum, s=part.shape[-2:])
        found[start : start + len(part)] = F.normalize(white.flatten(1))
        start += len(part)
    return found


def _slices(directions: Tensor) -> tuple[Tensor, ...]:
    return directions.split(max(1, _SLICE_NUMBERS // directions[0].numel()))


def _unit(directions: Tensor) -> Tensor:
    return F.normalize(directions.float().flatten(1)).view(directions.shape)


def thumbnails(images: Tensor) -> Tensor:
    """Small pictures of length 1 and mean 0 whose products tell copies of one picture.

    Args:
        images: (N, C, H, W), any range.

    Returns:
        (N, D) float32.
    """
    small = images.float()
    if min(images.shape[-2:]) > _THUMBNAIL:
        small = F.adaptive_avg_pool2d(small, _THUMBNAIL)
    flat = small.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True))


def null_shifts(size: Sequence[int], *, seed: int) -> list[tuple[int, int]]:
    """Circular shifts (down, right) under which a perturbation of one place no longer matches itself.

    Args:
        size: height and width in pixels.
        seed: picks `NULL_SHIFTS` of them.
    """
    steps = [BLOCK if side >= 2 * BLOCK else max(1, side // 2) for side in size]
    every = [(down, right) for down in range(0, size[0], steps[0]) for right in range(0, size[1], steps[1])]
    order = torch.randperm(len(every) - 1, generator=torch.Generator().manual_seed(seed))[:NULL_SHIFTS]
    return [every[1 + index] for index in order.tolist()]


@dataclass(frozen=True, kw_only=True)
class Directions:
    """What `shared_direction` compares: one row an image.

    Args:
        whitened: (N, D) of length 1, from `whiten`.
        pictures: (N, E) from `thumbnails`; pairs that show the same picture do not count.
        size: height and width of the images.
    """

    whitened: Tensor
    pictures: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.whitened)

    def __getitem__(self, rows: Tensor) -> Directions:
        return Directions(whitened=self.whitened[rows], pictures=self.pictures[rows], size=self.size)


@dataclass(frozen=True, kw_only=True)
class SharedDirection:
    """How alike the most alike images of a group are.

    Args:
        similarity: mean cosine between one image's direction and those of the `NEIGHBORS` most like it,
            for the image where it is highest.
        chance: the same against shifted copies of the group, averaged over the shifts.
        elsewhere: the same against images outside the group; None where there are too few.
        spread: standard deviation over the shifts, never taken below `NATURAL_SPREAD`.
        members: the image and its neighbors, positions in the group.
    """

    similarity: float
    chance: float
    elsewhere: float | None
    spread: float
    members: Tensor

    @property
    def expected(self) -> float:
        """The similarity of a group without a perturbation of its own."""
        return self.chance if self.elsewhere is None else max(self.chance, self.elsewhere)

    @property
    def p_value(self) -> float:
        """Chance of such a similarity in a group without a perturbation of its own; not corrected."""
        return gumbel_tail((self.similarity - self.expected) / self.spread)


def shared_direction(
    group: Directions, *, shifts: Sequence[tuple[int, int]], others: Directions | None = None
) -> SharedDirection:
    """Look for images whose directions agree more than chance allows.

    A perturbation that many images carry pulls their energy gradients the same way, whatever they
    show. Two things are expected without one: what the group reaches against copies of itself that
    are shifted, so that no perturbation meets itself; and what it reaches against other images, as
    sets of aligned pictures (a black background, say) share a direction by nature.

    Args:
        group: more than `NEIGHBORS` + 1 images.
        shifts: of `null_shifts`.
        others: images outside the group.
    """
    copies = _copies(group, group)
    nearest = _nearest(group.whitened, group.whitened, copies)
    closeness = nearest.values.mean(1)
    seed = int(closeness.argmax())
    by_chance = torch.stack(
        [
            _nearest(group.whitened, _shifted(group.whitened, shift, group.size), copies).values.mean(1).max()
            for shift in shifts
        ]
    )
    elsewhere = None
    if others is not None and len(others) > NEIGHBORS:
        elsewhere = float(_nearest(group.whitened, others.whitened, _copies(group, others)).values.mean(1).max())
    return SharedDirection(
        similarity=float(closeness[seed]),
        chance=float(by_chance.mean()),
        elsewhere=elsewhere,
        spread=max(NATURAL_SPREAD, float(by_chance.std())),
        members=torch.cat([nearest.indices.new_tensor([seed]), nearest.indices[seed]]),
    )


def _copies(rows: Directions, columns: Directions) -> Tensor:
    """Mark pairs that show the same picture, (N, M) bool; an image is a copy of itself."""
    same = rows.pictures @ columns.pictures.T > _SAME_PICTURE
    return same.fill_diagonal_(True) if rows is columns else same


def _nearest(rows: Tensor, columns: Tensor, copies: Tensor) -> torch.return_types.topk:
    return (rows @ columns.T).masked_fill_(copies, -1.0).topk(NEIGHBORS, dim=1)


def _shifted(directions: Tensor, shift: tuple[int, int], size: Sequence[int]) -> Tensor:
    height, width = size
    return torch.roll(directions.view(len(directions), -1, height, width), shift, (2, 3)).flatten(1)


@dataclass(frozen=True, kw_only=True)
class Template:
    """A direction that images share, and how near to it an image must be to carry it.

    Args:
        direction: (D,) of length 1, on the scale of `whiten`.
        threshold: cosine with `direction` from which on an image counts as a carrier.
    """

    direction: Tensor
    threshold: float

    def carried_by(self, directions: Tensor) -> Tensor:
        """Mark the directions that carry the pattern: (N, D) -> (N,) bool."""
        return directions @ self.direction.to(directions.device) > self.threshold


def fit_template(
    directions: Tensor, members: Tensor, *, size: Sequence[int], shifts: Sequence[tuple[int, int]], rounds: int = 5
) -> Template:
    """Grow the core of a cluster to every image that carries its direction.

    Args:
        directions: (N, D) of length 1.
        members: positions of the core.
        size: height and width of the images.
        shifts: of `null_shifts`.
        rounds: how often members and mean direction are found from each other.

    Returns:
        The mean direction. Its threshold is half of the members' median cosine, and above every
        cosine with a shifted copy of the direction.
    """
    template = Template(direction=F.normalize(directions[members].mean(0), dim=0), threshold=1.0)
    for _ in range(rounds):
        cosines = directions @ template.direction
        moved = [_shifted(template.direction[None], shift, size)[0] for shift in shifts]
        by_chance = (directions @ torch.stack(moved, dim=1)).max() if moved else torch.zeros(())
        threshold = max(float(by_chance), 0.5 * float(cosines[members].median()))
        # With a chance level above every member, the core stays as it is.
        found = (cosines > threshold).nonzero().flatten()
        members = found if len(found) else members
        template = Template(direction=F.normalize(directions[members].mean(0), dim=0), threshold=threshold)
    return template


def mean_pair_cosine(directions: Tensor) -> float:
    """Mean cosine over all pairs of (N, D) vectors of length 1; N above 1."""
    count = len(directions)
    return (float(directions.sum(0).square().sum()) - count) / (count * (count - 1))


def median_pair_cosine(directions: Tensor) -> float:
    """Median cosine over all pairs of (N, D) vectors of length 1; N above 1."""
    upper = torch.triu_indices(len(directions), len(directions), offset=1)
    return float((directions @ directions.T)[upper[0], upper[1]].median())

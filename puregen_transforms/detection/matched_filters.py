"""Search residuals for templates that a group of images shares, against the same templates misplaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import cut, gathered
from puregen_transforms.detection.look_alikes import copies_among, count_pictures, evenly
from puregen_transforms.detection.row_parts import join_parts
from puregen_transforms.purifier.batches import on_single_threads

NEIGHBORS = 4
LEAST_CARRIERS = 8
"""Different pictures that must carry a template."""

BUMP = 1.5
"""How far the median carrier must lie beyond the limit: a natural group is a tail that ends just above it."""

MARGIN = 1.1
"""The limit, relative to what misplaced templates reach."""

_TRIED = 8
_PAIRS = 10**8
"""Pairs of images that are compared: 10,000 images of one group, or 3,000 of each of ten classes."""

_ROUNDS = 6
_ROWS, _COMPARED = 1024, 256
_UNLIKE = 0.15
"""Cosine with the template below which a misplaced form of it is unlike it."""

_NEAR_MISS = 1.2
"""Bump from which on the carriers of a natural group are not tried again."""

_TAIL_ENDS, _TAIL_NEAR, _TAIL_SHARE = 1.2, 2 / 3, 0.25
"""A group is a tail if its lower tenth ends within 1.2 times the limit, and if more than a quarter as many images as it
has lie between two thirds of the limit and the limit. T-shirts photographed on one sheet: 1.11 times, three quarters;
overlays of attacks on two sets: 1.28 times or more, a thirtieth or less."""


class Field(Protocol):
    """Residuals of all images, at one place or as a whole."""

    @property
    def rows(self) -> Tensor:
        """(N, D) of length 1."""
        ...

    def compare(self, template: Tensor, *, thorough: bool) -> tuple[Tensor, float]:
        """Compute the cosine of each image with a template, and what chance gives.

        Args:
            template: (D,) of length 1.
            thorough: whether many misplaced templates are tried, or some.

        Returns:
            (N,) cosines, and the largest with a misplaced template.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeImages:
    """Residuals of whole images; a template is misplaced by shifting, mirroring and transposing it.

    Args:
        residuals: (N, C, H, W), each of length 1.
    """

    residuals: Tensor

    @property
    def rows(self) -> Tensor:
        """(N, C * H * W)."""
        return self.residuals.flatten(1)

    def compare(self, template: Tensor, *, thorough: bool) -> tuple[Tensor, float]:
        """Compare with some or many misplaced forms of the template."""
        columns = torch.cat([template[None], self._misplaced(template, 96 if thorough else 16)])
        products = product(self.rows, columns.T.contiguous())
        return products[:, 0], float(products[:, 1:].max()) if len(columns) > 1 else 1.0

    def _misplaced(self, template: Tensor, count: int) -> Tensor:
        """Choose forms that are unlike the template: (k, D), k at most `count`."""
        height, width = self.residuals.shape[2:]
        image = template.view(-1, height, width)
        forms = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
        if height == width:
            forms += [form.transpose(1, 2) for form in forms]
        moved = []
        for number in range(2 * count):
            down, right = divmod((number * 37 + number // 64) % 64, 8)
            moved.append(forms[number % len(forms)].roll((down * height // 8, right * width // 8), (1, 2)).flatten())
        stacked = torch.stack(moved)
        likeness = stacked @ template
        unlike = likeness.abs() < _UNLIKE
        # Without what is left of the template in them, or carriers would raise what chance gives.
        return F.normalize(stacked - likeness[:, None] * template)[unlike][:count]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Residuals in windows at one place; a template is misplaced by looking at the others.

    Args:
        windows: (P * N, D), each of length 1, those of all images at one place after those at another.
        count: N.
        place: which of the places this is.
    """

    windows: Tensor
    count: int
    place: int

    @property
    def rows(self) -> Tensor:
        """(N, D), the windows at this place."""
        return self.windows[self.place * self.count : (self.place + 1) * self.count]

    def compare(self, template: Tensor, *, thorough: bool) -> tuple[Tensor, float]:
        """Compare with the windows at all places; one or two images may have the pattern elsewhere by chance."""
        everywhere = product(self.windows, template[:, None]).view(-1, self.count)
        elsewhere = everywhere[torch.arange(len(everywhere)) != self.place]
        best = elsewhere.amax(0).topk(min(3, elsewhere.shape[1])).values if len(elsewhere) else torch.ones(1)
        return everywhere[self.place], float(best[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """A template that a group of images shares.

    Args:
        template: (D,) of length 1.
        scores: (N,) cosine of each image with the template, that of the images it is made of without their own share.
        limit: score above which an image is a carrier.
    """

    template: Tensor
    scores: Tensor
    limit: float

    @property
    def carriers(self) -> Tensor:
        """Rows above the limit."""
        return (self.scores > self.limit).nonzero().flatten()

    @property
    def bump(self) -> float:
        """How far the median carrier lies beyond the limit; 0 without carriers."""
        carriers = self.carriers
        return float(self.scores[carriers].median()) / self.limit if len(carriers) else 0.0

    @property
    def is_tail(self) -> bool:
        """Whether the carriers go over into the other images, as a natural group does, and an overlay does not."""
        carriers = self.scores[self.carriers]
        if not len(carriers):
            return False
        near = int(((self.scores > _TAIL_NEAR * self.limit) & (self.scores <= self.limit)).sum())
        return float(carriers.quantile(0.1)) < _TAIL_ENDS * self.limit and near > _TAIL_SHARE * len(carriers)


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply (N, D) by (D, k), with the same result for any number of threads."""
    return join_parts(lambda part: part @ columns, rows, _ROWS)


def find_neighbors(rows: Tensor, groups: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Find for each row those of its group that are most like it and show other pictures.

    Args:
        rows: (N, D) of length 1.
        groups: rows (n,) of each, and which pairs of them show the same picture, (n, n) bool.

    Returns:
        (N,) mean cosine with the four nearest, -1 for rows in no group or in one of few; and (N, 4) their rows.
    """
    closeness = torch.full((len(rows),), -1.0)
    nearest = torch.zeros(len(rows), NEIGHBORS, dtype=torch.int64)
    for group, copies in groups:
        values, places = _nearest(gathered(rows, group), copies)
        close = values.mean(1)
        better = close > closeness[group]
        closeness[group[better]] = close[better]
        nearest[group[better]] = group[places[better]]
    return closeness, nearest


def _nearest(rows: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each of (n, D) rows the most alike that are no copies: cosines and numbers, (n, NEIGHBORS) each.

    Two blocks of rows are multiplied once, and looked at from both sides.
    """
    blocks = cut(len(rows), _COMPARED)
    values = torch.full((len(rows), len(blocks), NEIGHBORS), -1.0)
    places = torch.zeros(values.shape, dtype=torch.int64)

    def compare(number: int) -> None:
        own, first = blocks[number], blocks[number].start
        cosines = (rows[own] @ rows[first:].T).masked_fill_(copies[own, first:], -1)

        def keep(part: slice, cosines: Tensor) -> None:
            best = cosines.topk(min(NEIGHBORS, cosines.shape[1]), dim=1)
            values[part, number, : best.values.shape[1]] = best.values
            places[part, number, : best.values.shape[1]] = best.indices + first

        keep(own, cosines)
        for other in blocks[number + 1 :]:
            keep(other, cosines[:, other.start - first : other.stop - first].T.contiguous())

    on_single_threads(compare, range(len(blocks)))
    best = values.flatten(1).topk(NEIGHBORS, dim=1)
    return best.values, places.flatten(1).gather(1, best.indices)


def groups_of(thumbnails: Tensor, labels: Tensor | None, *, everyone: int) -> list[tuple[Tensor, Tensor]]:
    """Choose the groups in which `find_neighbors` looks: the classes, and images of all of them.

    Args:
        thumbnails: (N, D) of `small_pictures`.
        labels: (N,) int64, negative where an image has none.
        everyone: how many images of all classes are compared with each other.
    """
    classes = [] if labels is None else labels[labels >= 0].unique().tolist()
    most = int((_PAIRS / max(1, len(classes))) ** 0.5)
    groups = [evenly((labels == label).nonzero().flatten(), most) for label in classes]
    groups.append(evenly(torch.arange(len(thumbnails)), everyone if classes else most))
    return [(group, copies_among(thumbnails[group])) for group in groups if len(group) > NEIGHBORS]


def grow(field: Field, members: Tensor) -> Match:
    """Find template and carriers from each other.

    Args:
        field: all images.
        members: rows, increasing, that may share something.
    """
    for _ in range(_ROUNDS):
        match = _match(field, members, thorough=False)
        found = match.carriers
        if len(found) < NEIGHBORS:
            return match
        if torch.equal(found, members):
            break
        members = found
    return _match(field, members, thorough=True)


def _match(field: Field, members: Tensor, *, thorough: bool) -> Match:
    own = gathered(field.rows, members)
    total = own.double().sum(0).float()
    template = F.normalize(total, dim=0)
    scores, chance = field.compare(template, thorough=thorough)
    scores = scores.clone()
    scores[members] = join_parts(lambda part: (part * F.normalize(total - part)).sum(1), own, _ROWS)
    return Match(template=template, scores=scores, limit=MARGIN * max(1e-6, chance))


def search(
    fields: Sequence[Field],
    thumbnails: Tensor,
    groups: Sequence[tuple[Tensor, Tensor]],
    *,
    tried: int = _TRIED,
    leave_out: Tensor | None = None,
) -> list[tuple[int, Match]]:
    """Grow the most alike neighbors into templates, and keep those that no natural group is like.

    Args:
        fields: residuals of the same images, at several places or as a whole.
        thumbnails: (N, E) of `small_pictures`.
        groups: of `groups_of`.
        tried: how many groups of neighbors are grown.
        leave_out: (N,) bool rows that are carriers of something already.

    Returns:
        The field and the match of each template.
    """
    near = [find_neighbors(field.rows, groups) for field in fields]
    closeness = torch.stack([closeness for closeness, _ in near])
    found: list[tuple[int, Match]] = []
    known = torch.zeros(closeness.shape[1], dtype=torch.bool) if leave_out is None else leave_out.clone()
    closeness[:, known] = -1
    for _ in range(tried):
        number, row = divmod(int(closeness.argmax()), closeness.shape[1])
        if closeness[number, row] <= 0:
            break
        members = torch.cat([torch.tensor([row]), near[number][1][row]]).sort().values
        match = grow(fields[number], members)
        closeness[number, members] = -1
        if match.bump >= _NEAR_MISS:
            closeness[number, match.carriers] = -1
        new = match.carriers[~known[match.carriers]]
        # A template of the same images again says nothing new, and one of most images is what the others lack.
        is_natural = match.bump < BUMP or match.is_tail
        if is_natural or 2 * len(new) < len(match.carriers) or 2 * len(match.carriers) > len(known):
            continue
        if count_pictures(thumbnails[match.carriers], most=LEAST_CARRIERS) == LEAST_CARRIERS:
            closeness[:, match.carriers] = -1
            known[match.carriers] = True
            found.append((number, match))
    return found

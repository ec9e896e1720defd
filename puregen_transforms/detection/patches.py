"""The detector of patches: small windows, nearly equal, that many images have somewhere, however they were stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.data.mapped import empty_rows, folder_of, gathered
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.look_alikes import copies_among, evenly, show_several_pictures, small_pictures
from puregen_transforms.detection.mark_report import read_images, report_marks
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.matched_filters import LEAST_CARRIERS, NEIGHBORS
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.residuals import reduction
from puregen_transforms.detection.row_parts import fill_parts, join_parts
from puregen_transforms.purifier.batches import on_single_threads

SIDES = (5, 8)
"""Of the windows, in pixels of the images, which are averaged down to 64 pixels if they are larger."""

NEAR = 0.8
"""Images that have less of a patch than this share of what its typical carrier has do not carry it."""

MARGIN = 1.1
"""What chance gives, relative to what images reach that do not carry the patch."""

GAP = 1.5
"""How far the typical carrier must lie beyond that. Where images thin out without a gap, it lies 1 / NEAR / MARGIN =
1.14 beyond it, and a little more. Of 360 clean sets of 40 to 1,000 images none came so far, and two sets of a hundred
digits to 1.4 (`benchmarks/results/patches_null.json`)."""

_COMPARED = 4000
"""Images that are compared with each other: those with the most unusual windows."""

_MEASURED = 1000
"""Images in which it is measured what is usual."""

_TRIED, _ROUNDS = 8, 6
_LIKE = 0.5
_PART, _WHITENED = 64, 16


@dataclass(frozen=True, kw_only=True)
class Patches(Detector):
    """Flag images that share a small patch, at any place, also if it was compressed since.

    Windows are whitened: their 25 or 64 pixels, in gray, are turned and scaled so that in this set they are
    uncorrelated and of equal variance. Natural windows are smooth, so that a stamp is long there. Of each image the
    longest window is compared with those of others that show other pictures. Four neighbors are grown into a template,
    their mean direction; an image has as much of it as its largest projection anywhere, also where half a window lies
    beyond the border. A patch counts if eight pictures or more, and at most half of all, carry it and there is a gap:
    typical carriers have 1.5 times as much of it as any image that has less than 0.8 of what they have. Natural windows
    of one kind thin out gradually.

    Labels are used as evidence alone (`weigh_labels`): a patch that images of all classes carry, and whose labels fit
    the pictures, is a mark of the report and not flagged.

    A score is how far the projection exceeds a limit within the gap, relative to it; 0 where no patch is found. It sees
    no color, and no patch that is as faint or smooth as the pictures themselves.
    """

    version: ClassVar[int] = 3

    uses: ClassVar[frozenset[str]] = frozenset({"labels"})

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Search windows of either size.

        Raises:
            ValueError: too few images, too small ones or of several sizes, or one that cannot be read.
        """
        images, labels, order = read_images(suspects, smallest=max(SIDES))
        step = reduction(images.shape[-2:])
        gray = _all_gray(images, step)
        patches: list[Patch] = []
        for number, side in enumerate(SIDES):
            suspects.progress("looking for patches", number, len(SIDES))
            patches += find_patches(Windows.of(gray, side), images)
        suspects.progress("looking for patches", len(SIDES), len(SIDES))
        found = [
            (replace(patch.mark(images, step), rows=(margins > 0).nonzero().flatten()), margins)
            for patch, margins in join(patches)
        ]
        return report_marks(suspects, order, images, labels, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """The windows of all images, whitened.

    Args:
        gray: (N, 1, h, w), in a file if they are too many for the memory.
        side: of a window, in pixels.
        whitening: (D, D), from the D = side² pixels of a window.
        longest: (N, D), of each image the window of greatest length.
    """

    gray: Tensor
    side: int
    whitening: Tensor
    longest: Tensor

    @classmethod
    def of(cls, gray: Tensor, side: int) -> Windows:
        """Measure what is usual, and find the longest window of each image: (N, 1, h, w)."""
        whitening = _whitening(gathered(gray, evenly(torch.arange(len(gray)), _MEASURED)), side)

        def longest(part: Tensor) -> Tensor:
            white = (_cut(part, side) @ whitening).view(len(part), -1, len(whitening))
            place = torch.linalg.vector_norm(white, dim=2).argmax(1)
            return white[torch.arange(len(part)), place]

        return cls(
            gray=gray,
            side=side,
            whitening=whitening,
            longest=join_parts(longest, gray, _WHITENED),
        )

    def project(self, template: Tensor) -> Tensor:
        """Project all windows of all images on a template of length 1, (D,): (N,) the largest of each image."""
        edge = self.side // 2  # so that a stamp at the border is seen at any place in a window, too
        width = self.gray.shape[-1] + 2 * edge
        # As a product of bands of rows with the kernel at every place: several times as fast as a convolution of one
        # channel, whatever it spends on zeros.
        columns = width - self.side + 1
        band = torch.zeros(self.side, width, columns)
        for column in range(columns):
            band[:, column : column + self.side, column] = self._kernel(template)
        band = band.flatten(0, 1)

        def largest(part: Tensor) -> Tensor:
            padded = F.pad(part, (edge, edge, edge, edge), mode="replicate")
            bands = padded.flatten(1).unfold(1, len(band), width).reshape(-1, len(band))
            return (bands @ band).view(len(part), -1).amax(1)

        return join_parts(largest, self.gray, _PART)

    def places(self, template: Tensor, rows: Tensor) -> list[tuple[int, int]]:
        """Find where in some images the projection on a template is largest: how far down and how far right."""
        kernel = self._kernel(template)[None, None]
        found = torch.cat(
            [F.conv2d(gathered(self.gray, part), kernel).flatten(1).argmax(1) for part in rows.split(_PART)]
        )
        return [divmod(place, self.gray.shape[-1] - self.side + 1) for place in found.tolist()]

    def _kernel(self, template: Tensor) -> Tensor:
        return (template @ self.whitening).view(self.side, self.side)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """A window that images share.

    Args:
        windows: in which it was looked for.
        template: (D,) of length 1.
        scores: (N,) largest projection of each image.
        chance: what images reach that do not have it, and a margin.
        typical: what images reach that have it.
    """

    windows: Windows
    template: Tensor
    scores: Tensor
    chance: float
    typical: float

    @property
    def gap(self) -> float:
        """How far the typical carrier lies beyond what others reach."""
        return self.typical / self.chance

    @property
    def margins(self) -> Tensor:
        """By how much the score of each image exceeds the limit, a third of the way through the gap, relative to it."""
        return self.scores / (self.chance * max(1.0, self.gap) ** (1 / 3)) - 1

    @property
    def carriers(self) -> Tensor:
        """Rows above the limit."""
        return (self.margins > 0).nonzero().flatten()

    def mark(self, images: Tensor, step: int) -> Mark:
        """Describe it, with the mean picture of its carriers' windows, at the place where most have it.

        Args:
            images: (N, 3, H, W) uint8.
            step: pixels of a side that are averaged into one of the windows'.
        """
        corners = self.windows.places(self.template, self.carriers)
        size = self.windows.side * step
        color = torch.zeros(3, size, size)
        for row, (down, right) in zip(self.carriers.tolist(), corners, strict=True):
            color += images[row][:, down * step :, right * step :][:, :size, :size] / len(corners)
        picture = torch.cat([color.round(), torch.full_like(color[:1], 255)]).to(torch.uint8)
        down, right = max(set(corners), key=lambda corner: (corners.count(corner), corner))
        return Mark(
            kind="patch", rows=self.carriers, picture=picture, place=(down * step, right * step), ratio=self.gap
        )


def find_patches(windows: Windows, images: Tensor) -> Iterator[Patch]:
    """Grow the most alike long windows into patches, and keep those beyond a gap.

    Args:
        windows: of all images.
        images: (N, 3, H, W) uint8.

    Yields:
        Patches, each with a carrier that none before has; a stamp that moves gives several.
    """
    lengths = windows.longest.norm(dim=1)
    rows = lengths.topk(min(_COMPARED, len(lengths))).indices
    closeness, nearest = _neighbors(windows.longest[rows], copies_among(small_pictures(gathered(images, rows))))
    known = torch.zeros(len(lengths), dtype=torch.bool)
    failed = 0
    while failed < _TRIED and float(closeness.max()) > 0:
        seed = int(closeness.argmax())
        members = rows[torch.cat([torch.tensor([seed]), nearest[seed]])]
        patch = _grow(windows, members, known)
        carriers = patch.carriers
        closeness[torch.isin(rows, torch.cat([members, carriers]))] = -1
        if (
            patch.gap >= GAP
            and not known[carriers].all()
            and 2 * len(carriers) <= len(lengths)  # what most images have, the others lack
            and show_several_pictures(images, carriers, least=LEAST_CARRIERS)
        ):
            known[carriers] = True
            yield patch
        else:
            failed += 1


def join(patches: Sequence[Patch]) -> list[tuple[Patch, Tensor]]:
    """Join patches that are the same one seen in windows of several sizes and places: half of the carriers agree.

    Returns:
        Of each the patch of the widest gap, and (N,) margins, above 0 for all carriers.
    """
    joined: list[tuple[Patch, Tensor]] = []
    for patch in sorted(patches, key=lambda patch: -patch.gap):
        carries = patch.margins > 0
        for number, (strongest, margins) in enumerate(joined):
            common = int((carries & (margins > 0)).sum())
            if 2 * common >= min(int(carries.sum()), int((margins > 0).sum())):
                joined[number] = strongest, torch.maximum(margins, patch.margins)
                break
        else:
            joined.append((patch, patch.margins))
    return joined


def _neighbors(longest: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each image those whose longest windows are most like its own.

    Args:
        longest: (n, D).
        copies: (n, n) bool pairs that show the same picture.

    Returns:
        (n,) their mean cosine times the least of their lengths, -1 for all where there are too few images; and
        (n, NEIGHBORS) which they are.
    """
    count = len(longest)
    if count <= NEIGHBORS:
        return torch.full((count,), -1.0), torch.zeros(count, NEIGHBORS, dtype=torch.int64)
    turned, lengths = F.normalize(longest), longest.norm(dim=1)

    def near(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        values, places = (part[0] @ turned.T).masked_fill_(part[1], -1).topk(NEIGHBORS, dim=1)
        return values, places

    pairs = on_single_threads(near, list(zip(turned.split(_PART), copies.split(_PART), strict=True)))
    cosines, nearest = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return cosines.mean(1) * torch.minimum(lengths, lengths[nearest].amin(1)), nearest


def _grow(windows: Windows, members: Tensor, known: Tensor) -> Patch:
    """Find template and carriers from each other.

    Returns:
        The last patch, or the one of the widest gap where growing has closed it: of a stamp that moves, members that
        show it at several places in their windows blur it.
    """
    patches = [_match(windows, members, known)]
    for _ in range(_ROUNDS):
        carriers = patches[-1].carriers
        template = F.normalize(F.normalize(windows.longest[members]).sum(0), dim=0)
        found = carriers[F.normalize(windows.longest[carriers]) @ template > _LIKE]
        if len(found) < NEIGHBORS or torch.equal(found, members):
            break
        members = found
        patches.append(_match(windows, members, known))
    return patches[-1] if patches[-1].gap >= GAP else max(patches, key=lambda patch: patch.gap)


def _match(windows: Windows, members: Tensor, known: Tensor) -> Patch:
    """Project all images on the mean of some; carriers of other patches do not say what chance gives."""
    own = windows.longest[members]
    total = F.normalize(own).sum(0)
    template = F.normalize(total, dim=0)
    scores = windows.project(template)
    # Without their own share in the template.
    typical = float((own * F.normalize(total - F.normalize(own))).sum(1).median())
    others = scores[(scores < NEAR * typical) & ~known]
    # One or two images may have it by chance.
    chance = float(others.topk(min(3, len(others))).values[-1]) if len(others) else torch.inf
    return Patch(windows=windows, template=template, scores=scores, chance=MARGIN * max(1e-6, chance), typical=typical)


def _all_gray(images: Tensor, step: int) -> Tensor:
    height, width = (side // step for side in images.shape[-2:])
    found = empty_rows((len(images), 1, height, width), torch.float32, folder=folder_of(images))
    return fill_parts(found, partial(_gray, step=step), images, _PART)


def _gray(images: Tensor, step: int) -> Tensor:
    gray = images.float().mean(1, keepdim=True)
    return F.avg_pool2d(gray, step) if step > 1 else gray


def _cut(gray: Tensor, side: int) -> Tensor:
    """Cut all windows out of images: (n, 1, h, w) -> (n * places, side * side), image after image, row after row."""
    return gray[:, 0].unfold(1, side, 1).unfold(2, side, 1).reshape(-1, side * side)


def _whitening(gray: Tensor, side: int) -> Tensor:
    """Compute the matrix after which windows are uncorrelated and of variance 1: (n, 1, h, w) -> (D, D)."""

    def products(part: Tensor) -> Tensor:
        windows = _cut(part, side)
        pixels = (windows - windows.mean(1, keepdim=True)).double()
        return pixels.T @ pixels

    places = (gray.shape[-2] - side + 1) * (gray.shape[-1] - side + 1)
    covariance = torch.stack(on_single_threads(products, gray.split(_PART))).sum(0) / (len(gray) * places)
    values, vectors = torch.linalg.eigh(covariance)
    floor = max(0.05 * float(values.median()), 1.0)  # one gray value: smooth sets leave nearly nothing in some
    whitening = vectors @ (values.clamp_min(0) + floor).rsqrt().diag() @ vectors.T
    return (whitening - whitening.mean(1, keepdim=True)).float()  # the mean of a window does not count

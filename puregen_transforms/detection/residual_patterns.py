"""The detector of residual patterns: overlays, however faint, that many images share, found without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms._progress import Progress
from puregen_transforms.data.mapped import copied_rows, empty_rows, folder_of, parts_of, release
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.look_alikes import evenly, small_pictures
from puregen_transforms.detection.mark_report import read_images, report_marks
from puregen_transforms.detection.marks import Mark, drawn
from puregen_transforms.detection.matched_filters import Match, WholeImages, Windows, groups_of, product, search
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.residuals import Whitening, as_colors, reduction
from puregen_transforms.functional.memory import give_back_freed_memory

WINDOW = 8
"""Side of the windows of the second look, in pixels of the residuals."""

_WINDOWS_DOWN = 5
_WINDOWS_TRIED = 12
_EVERYONE, _EVERYONE_IN_WINDOWS = 4000, 2000
_MOST_NUMBERS = 2**28
"""Of the residuals that are searched, a gigabyte of float32; the other images are only compared with what is found."""

_MANY, _ENOUGH = 0.02, 1000
"""Share of carriers from which on a pattern hides itself, as what is usual contains it; and images without it that
are enough to measure what is usual."""

_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class ResidualPatterns(Detector):
    """Flag images that share an overlay, such as a blended picture or an optimized trigger, without any network.

    From each image what images of the set have anyway is removed (`Whitening`). Then neighbors that show different
    pictures are grown into a template, a matched filter: the mean of all images whose cosine with it exceeds what the
    same template, shifted, mirrored or transposed, reaches anywhere in the set. It counts if at least eight pictures
    carry it and their median lies 1.5 times beyond that limit: a natural group is a tail that ends just above it, an
    overlay a bump far from it. Labels are used to look for neighbors within classes first, and as evidence
    (`weigh_labels`): a template that images of all classes carry, and whose labels fit the pictures, is a mark of the
    report and not flagged.

    A second look into windows of 8x8 pixels finds local patterns, such as patches that were blended in or compressed.

    A score is how far the cosine exceeds the limit, relative to it; 0 where no template is found. It sees nothing
    that differs from image to image, warps, and changes of labels alone.

    Args:
        windows: whether to take the second look.
    """

    version: ClassVar[int] = 2

    windows: bool = True

    uses: ClassVar[frozenset[str]] = frozenset({"labels"})

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Search the whole images, then windows of those in which nothing was found.

        Raises:
            ValueError: too few images, too small ones or of several sizes, or one that cannot be read.
        """
        images, labels, order = read_images(suspects, smallest=2 * WINDOW)
        marks = self._find(images, labels, suspects.progress)
        give_back_freed_memory()
        return report_marks(suspects, order, images, labels, marks)

    def _find(self, images: Tensor, labels: Tensor | None, progress: Progress) -> list[tuple[Mark, Tensor]]:
        step = reduction(images.shape[-2:])
        numbers = images.shape[1:].numel() // step**2
        rows = evenly(torch.arange(len(images)), _MOST_NUMBERS // numbers)
        sample, known = copied_rows(images, rows), None if labels is None else labels[rows]
        thumbnails = small_pictures(sample)
        progress("looking for shared patterns", 0, 2)
        whitening, residuals, found = _search_whole(
            sample, thumbnails, groups_of(thumbnails, known, everyone=_EVERYONE)
        )
        marks = [_mark("pattern", match, rows, used, images, lambda own: own.flatten(1)) for used, match in found]
        progress("looking for shared patterns", 1, 2)
        give_back_freed_memory()
        if self.windows:
            cuts = _window_cuts(residuals.shape[-2:])
            windows = _all_windows(residuals, [cut for _, cut in cuts])
            local = search(
                [Windows(windows=windows, count=len(sample), place=number) for number in range(len(cuts))],
                thumbnails,
                groups_of(thumbnails, known, everyone=_EVERYONE_IN_WINDOWS),
                tried=_WINDOWS_TRIED,
                leave_out=_carriers([match for _, match in found], len(sample)),
            )
            marks += [
                _mark("local pattern", match, rows, whitening, images, cuts[number][1], cuts[number][0])
                for number, match in local
            ]
        progress("looking for shared patterns", 2, 2)
        return marks


def _search_whole(
    images: Tensor, thumbnails: Tensor, groups: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Whitening, Tensor, list[tuple[Whitening, Match]]]:
    """Search whole images; where many carry a pattern, again with what is usual measured on the others alone.

    The second search need not see what the first one saw: where hardly any other image has what a pattern has, that
    alone is left of it, and it looks like itself wherever it is moved to. What the first one found stays found.

    Returns:
        The last whitening, its residuals, and the matches, each with the whitening that it was found with.
    """
    whitening = Whitening.fit(images)
    residuals = whitening(images)
    found = [(whitening, match) for _, match in search([WholeImages(residuals=residuals)], thumbnails, groups)]
    carries = _carriers([match for _, match in found], len(images))
    if carries.float().mean() <= _MANY or int((~carries).sum()) < _ENOUGH:
        return whitening, residuals, found
    whitening = Whitening.fit(copied_rows(images, (~carries).nonzero().flatten()))
    residuals = whitening(images)
    again = [match for _, match in search([WholeImages(residuals=residuals)], thumbnails, groups)]
    seen = _carriers(again, len(images))
    missed = [(used, match) for used, match in found if 2 * int(seen[match.carriers].sum()) < len(match.carriers)]
    return whitening, residuals, [*((whitening, match) for match in again), *missed]


def _carriers(found: Sequence[Match], count: int) -> Tensor:
    """Mark the rows that carry one of the templates: (count,) bool."""
    carries = torch.zeros(count, dtype=torch.bool)
    for match in found:
        carries[match.carriers] = True
    return carries


def _window_cuts(size: Sequence[int]) -> list[tuple[tuple[int, int], Callable[[Tensor], Tensor]]]:
    """Make functions that cut the window at each place out of residuals: (N, C, H, W) -> (N, C * 8 * 8) of length 1."""

    def cut_at(down: int, right: int) -> Callable[[Tensor], Tensor]:
        return lambda own: F.normalize(own[:, :, down : down + WINDOW, right : right + WINDOW].flatten(1))

    downs, rights = (
        sorted({round(step * (side - WINDOW) / (_WINDOWS_DOWN - 1)) for step in range(_WINDOWS_DOWN)}) for side in size
    )
    return [((down, right), cut_at(down, right)) for down in downs for right in rights]


def _all_windows(residuals: Tensor, cuts: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """Cut the windows of all images at each place: (P * N, D), one place after the other."""
    count = len(residuals)
    found = empty_rows((len(cuts) * count, residuals.shape[1] * WINDOW**2), torch.float32, folder=folder_of(residuals))
    for part in parts_of(residuals, _AT_ONCE):
        own = residuals[part]
        for number, cut in enumerate(cuts):
            found[number * count + part.start : number * count + part.stop] = cut(own)
        release(found)
    return found


def _mark(
    kind: str,
    match: Match,
    rows: Tensor,
    whitening: Whitening,
    images: Tensor,
    cut: Callable[[Tensor], Tensor],
    place: tuple[int, int] = (0, 0),
) -> tuple[Mark, Tensor]:
    """Describe a match, and look for it in the images that were not searched: the mark, and the (N,) scores."""
    scores = torch.empty(len(images))
    scores[rows] = match.scores
    left = torch.ones(len(images), dtype=torch.bool)
    left[rows] = False
    for part in left.nonzero().flatten().split(_AT_ONCE) if left.any() else ():
        scores[part] = product(cut(whitening(images[part])), match.template[:, None])[:, 0]
        release(images)
    side = WINDOW if kind == "local pattern" else None
    picture = as_colors(match.template.view(3, side or whitening.mean.shape[1], -1))
    mark = Mark(
        kind=kind,
        rows=(scores > match.limit).nonzero().flatten(),
        picture=drawn(picture),
        place=(place[0] * whitening.step, place[1] * whitening.step),
        ratio=match.bump,
    )
    return mark, scores / match.limit - 1

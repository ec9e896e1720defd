"""Search a set for images that share a perturbation, by the directions of their energy gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from puregen_transforms._progress import Progress, silent
from puregen_transforms.detection.energy_levels import judge_classes, judge_group, rows_by_class, score_energies
from puregen_transforms.detection.findings import (
    COMMON_TO_ALL,
    LEVELS,
    SIGNIFICANCE,
    SUSPICIOUS,
    TOO_FEW,
    UNUSUAL,
    Findings,
    FoundPattern,
    GroupFinding,
)
from puregen_transforms.detection.statistics import (
    NEIGHBORS,
    Directions,
    SharedDirection,
    Template,
    as_many_as_fit,
    fit_template,
    mean_pair_cosine,
    mean_spectrum,
    median_pair_cosine,
    null_shifts,
    shared_direction,
    whiten,
)

STRONG = 0.4
"""Similarity that no clean class of photographs comes near."""

EXAMINED_IN_CLASS, EXAMINED_IN_ALL, EXAMINED_AT_LEAST = 1000, 1500, 64
EXAMINED_BUDGET = 50_000
REFERENCE = 512
_MOST_PATTERNS = 5
_SAME_PATTERN = 0.5
_CHUNK = 512

Gradients = Callable[[Sequence[int]], tuple[Tensor, Tensor]]
"""Rows -> energy gradients (n, C, H, W) and thumbnails (n, E); see `ImageMeter.gradients`."""


def search(
    energies: Tensor,
    gradients: Gradients,
    *,
    size: tuple[int, int],
    comparable: Tensor | None = None,
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Findings:
    """Look for poisoned images by their energies and by perturbations they share.

    Args:
        energies: (N,), NaN where there is no image.
        gradients: of the energy; called with rows of `comparable` only.
        size: height and width of the comparable images.
        comparable: (N,) bool, the images of that size; None for all.
        labels: (N,) int64 class of each image, negative where it has none.
        class_names: by label; missing ones are named by their number.
        seed: of the random choices (reference images, shifts).
        device: where to compare directions.
        progress: told what is being done.
    """
    usable = energies.isfinite() if comparable is None else comparable & energies.isfinite()
    field = _measure_field(energies, usable, gradients, size=size, seed=seed, device=torch.device(device))
    members = rows_by_class(labels, energies)
    every = energies.isfinite().nonzero().flatten()
    scores = score_energies(energies, members)
    findings = judge_classes(energies, scores, members, class_names)
    tests = len(members) + 1
    # The classes come first: the whole set then adds only what no class has alone.
    pool = field.highest(every, EXAMINED_IN_ALL)
    everyone = field.directions(pool)
    templates: list[Template] = []
    cap = max(EXAMINED_AT_LEAST, min(EXAMINED_IN_CLASS, EXAMINED_BUDGET // max(1, len(members))))
    classes, done = [], 0
    for finding, rows in zip(findings, members.values(), strict=True):
        group = field.directions(field.highest(rows, cap))
        outside = (~torch.isin(pool, rows)).nonzero().flatten()[:EXAMINED_IN_CLASS].to(field.device)
        finding, new = _search_group(finding, group, everyone[outside], tests, field)
        classes.append(finding)
        templates = _with_new(templates, new)
        done += len(rows)
        progress("comparing images within classes", done, sum(map(len, members.values())))
    whole = judge_group("whole set", None, energies[every], scores[every], tests)
    if field.common > COMMON_TO_ALL:
        whole = replace(whole, level=UNUSUAL)
    else:
        whole, new = _search_group(whole, everyone, None, tests, field)
        templates = _with_new(templates, new)
    patterns, margins = _match(templates, field, progress)
    carriers = torch.tensor(sorted({row for pattern in patterns for row in pattern.carriers}), dtype=torch.int64)
    counts = [] if labels is None else labels[carriers].tolist()
    return Findings(
        classes=tuple(sorted((_with_carriers(group, counts.count(group.label)) for group in classes), key=_rank)),
        whole=replace(whole, carriers=len(carriers)),
        patterns=patterns,
        scores=scores,
        margins=margins,
        common=field.common,
        spectrum=field.spectrum,
    )


@dataclass(frozen=True, kw_only=True)
class _GradientField:
    """The energy gradients of a set, brought to one scale.

    Args:
        energies: (N,).
        usable: (N,) bool, the images that can be compared.
        gradients: of the energy.
        size: height and width of the usable images.
        spectrum: usual amplitudes of the gradients.
        shifts: that keep no perturbation on itself; see `null_shifts`.
        common: median cosine of random pairs.
        device: where to compare.
    """

    energies: Tensor
    usable: Tensor
    gradients: Gradients
    size: tuple[int, int]
    spectrum: Tensor
    shifts: Sequence[tuple[int, int]]
    common: float
    device: torch.device

    def highest(self, rows: Tensor, count: int) -> Tensor:
        """Choose the usable rows of highest energy, as many as fit."""
        rows = rows[self.usable[rows]]
        return rows[self.energies[rows].argsort(descending=True)[: _fitting(self.size, count)]]

    def directions(self, rows: Tensor) -> Directions:
        """Compute the whitened gradients of some rows."""
        if not len(rows):
            empty = self.spectrum.new_zeros(0, 1)
            return Directions(whitened=empty, pictures=empty, size=self.size)
        raw, pictures = self.gradients(rows.tolist())
        whitened = whiten(raw.to(self.device), self.spectrum)
        return Directions(whitened=whitened, pictures=pictures.to(self.device), size=self.size)


def _measure_field(
    energies: Tensor, usable: Tensor, gradients: Gradients, *, size: tuple[int, int], seed: int, device: torch.device
) -> _GradientField:
    """Measure usual amplitudes, and whether all images share a direction, on random images."""
    rows = usable.nonzero().flatten()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    raw, _ = gradients(rows[order[: _fitting(size, REFERENCE)]].tolist())
    spectrum = mean_spectrum(raw).to(device)
    return _GradientField(
        energies=energies,
        usable=usable,
        gradients=gradients,
        size=size,
        spectrum=spectrum,
        shifts=null_shifts(size, seed=seed),
        common=median_pair_cosine(whiten(raw.to(device), spectrum)) if len(rows) > 1 else 0.0,
        device=device,
    )


def _fitting(size: tuple[int, int], count: int) -> int:
    """Limit how many images are held at once; fewer where they are large."""
    return as_many_as_fit(size, most=count, least=EXAMINED_AT_LEAST)


def _search_group(
    finding: GroupFinding, group: Directions, others: Directions | None, tests: int, field: _GradientField
) -> tuple[GroupFinding, list[Template]]:
    """Search a group for shared directions: its finding with what was found, and their templates."""
    finding = replace(finding, examined=len(group))
    left, first, templates = group, None, []
    for _ in range(_MOST_PATTERNS):
        if len(left) <= NEIGHBORS + 1:
            break
        shared = shared_direction(left, shifts=field.shifts, others=others)
        first = first or shared
        if min(1.0, tests * shared.p_value) >= SIGNIFICANCE:
            break
        template = fit_template(left.whitened, shared.members, size=field.size, shifts=field.shifts)
        templates.append(template)
        stay = ~template.carried_by(left.whitened)
        stay[shared.members] = False
        left = left[stay.nonzero().flatten()]
    if first is None:
        return replace(finding, level=finding.level if finding.level == UNUSUAL else TOO_FEW), templates
    p_value = min(1.0, tests * first.p_value)
    tiled = p_value >= SIGNIFICANCE and _repeats(first)
    level = SUSPICIOUS if p_value < SIGNIFICANCE else UNUSUAL if tiled else finding.level
    finding = replace(
        finding, similarity=first.similarity, expected=first.expected, pattern_p=p_value, tiled=tiled, level=level
    )
    return finding, templates


def _with_new(templates: list[Template], found: Sequence[Template]) -> list[Template]:
    """Add the templates that are unlike all before them."""
    known = list(templates)
    for template in found:
        if not any(float(template.direction @ other.direction) > _SAME_PATTERN for other in known):
            known.append(template)
    return known


def _match(
    templates: Sequence[Template], field: _GradientField, progress: Progress
) -> tuple[tuple[FoundPattern, ...], Tensor]:
    """Compare every usable image with the templates: the patterns with their carriers, and each image's margin."""
    margins = torch.full_like(field.energies, -torch.inf)
    if not templates:
        return (), margins
    rows = field.usable.nonzero().flatten()
    bases = torch.stack([template.direction for template in templates], dim=1)
    parts: list[Tensor] = []
    for chunk in rows.split(as_many_as_fit(field.size, most=_CHUNK)):
        raw, _ = field.gradients(chunk.tolist())
        parts.append((whiten(raw.to(field.device), field.spectrum) @ bases).cpu())
        progress("looking for the pattern in every image", sum(map(len, parts)), len(rows))
    cosines, thresholds = torch.cat(parts), torch.tensor([template.threshold for template in templates])
    margins[rows] = (cosines - thresholds).max(1).values
    carried = cosines > thresholds
    best = cosines.masked_fill(~carried, -1).argmax(1)
    found = []
    for index, template in enumerate(templates):
        mine = (carried[:, index] & (best == index)).nonzero().flatten()
        mine = mine[cosines[mine, index].argsort(descending=True)]
        if len(mine) <= NEIGHBORS:
            continue
        sample = field.directions(rows[mine[: _fitting(field.size, REFERENCE)]])
        found.append(
            FoundPattern(
                template=template,
                carriers=tuple(rows[mine].tolist()),
                cosines=tuple(cosines[mine, index].tolist()),
                similarity=mean_pair_cosine(sample.whitened),
            )
        )
    return tuple(sorted(found, key=lambda pattern: -len(pattern.carriers))), margins


def _with_carriers(group: GroupFinding, count: int) -> GroupFinding:
    return replace(group, carriers=count, level=SUSPICIOUS if count > NEIGHBORS else group.level)


def _repeats(shared: SharedDirection) -> bool:
    """Tell whether strong likeness survives shifting by whole JPEG blocks: a tiled pattern, or blocks themselves."""
    return shared.similarity > STRONG and shared.chance > STRONG / 2


def _rank(group: GroupFinding) -> tuple[float, ...]:
    share = group.carriers / group.images if group.level == SUSPICIOUS else 0.0
    p_values = [group.outlier_p] + ([] if group.pattern_p is None else [group.pattern_p])
    excess = 0.0 if group.similarity is None or group.expected is None else group.similarity - group.expected
    return LEVELS.index(group.level), -share, min(p_values), -excess

"""From energies and gradients to a judgement of every class: who stands out, and by what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from puregen_transforms.inspection.statistics import (
    NEIGHBORS,
    Directions,
    SharedDirection,
    Template,
    as_many_as_fit,
    binomial_tail,
    fit_template,
    mean_pair_cosine,
    mean_spectrum,
    median_pair_cosine,
    null_shifts,
    robust_scores,
    shared_direction,
    whiten,
)

SIGNIFICANCE = 0.01
"""Chance of a false alarm, per kind of test and data set, as far as its assumptions hold."""

OUTLIER = 4.0
"""Robust standard deviations above the median of its class from which on an energy is an outlier."""

USUAL_QUARTILE = 0.5
"""Score within the whole set that the lower quartile of an ordinary class stays below."""

USUAL_OUTLIERS = 1e-3
"""Share of outliers that clean classes are granted."""

COMMON_TO_ALL = 0.05
"""Median cosine of random pairs above which a whole set shares a direction; clean photographs have 0.003."""

STRONG = 0.4
"""Similarity that no clean class of photographs comes near."""

EXAMINED_IN_CLASS, EXAMINED_IN_ALL, EXAMINED_AT_LEAST = 1000, 1500, 64
EXAMINED_BUDGET = 50_000
REFERENCE = 512
_MOST_PATTERNS = 5
_SAME_PATTERN = 0.5
_CHUNK = 512

SUSPICIOUS, UNUSUAL, CLEAR, TOO_FEW = "suspicious", "unusual", "nothing found", "too few images"
LEVELS = (SUSPICIOUS, UNUSUAL, CLEAR, TOO_FEW)

Gradients = Callable[[Sequence[int]], tuple[Tensor, Tensor]]
"""Rows -> energy gradients (n, C, H, W) and thumbnails (n, E); see `ImageMeter.gradients`."""


@dataclass(frozen=True, kw_only=True)
class GroupFinding:
    """What was found in one class, or in the whole set.

    Args:
        name: of the class.
        label: its value in the labels; None for the whole set.
        images: how many there are.
        examined: how many were searched for a shared perturbation: those of the highest energies.
        median_energy: of the group.
        energy_spread: robust standard deviation of the energies.
        outliers: images whose energy lies more than `OUTLIER` of these above the median of their class.
        outlier_p: chance of so many outliers in a clean group, times the number of groups.
        similarity: how alike the most alike images are; see `SharedDirection`. None if not searched.
        expected: what that is without a perturbation.
        pattern_p: chance of such a similarity in a clean group, times the number of groups.
        carriers: images of the group that carry a shared pattern found anywhere in the set.
        tiled: whether alike images stay so when shifted by whole JPEG blocks.
        level: one of `LEVELS`.
    """

    name: str
    label: int | None
    images: int
    examined: int
    median_energy: float
    energy_spread: float
    outliers: int
    outlier_p: float
    similarity: float | None = None
    expected: float | None = None
    pattern_p: float | None = None
    carriers: int = 0
    tiled: bool = False
    level: str = CLEAR


@dataclass(frozen=True, kw_only=True)
class FoundPattern:
    """A perturbation that many images share.

    Args:
        template: its direction.
        carriers: rows of the images that carry it, the most alike first.
        cosines: of each carrier with the direction.
        similarity: mean cosine between the directions of two carriers.
    """

    template: Template
    carriers: tuple[int, ...]
    cosines: tuple[float, ...]
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the numbers of a set say.

    Args:
        classes: most suspicious first; empty without labels.
        whole: the set as one group.
        patterns: those shared by most images first.
        scores: (N,) robust score of each energy within its class, or of an outlier of the whole set in a class that
            is crowded with them, within the set; NaN without an image.
        common: median cosine of random pairs of the set.
        spectrum: usual amplitudes, as `whiten` needs them to bring other gradients to the templates' scale.
    """

    classes: tuple[GroupFinding, ...]
    whole: GroupFinding
    patterns: tuple[FoundPattern, ...]
    scores: Tensor
    common: float
    spectrum: Tensor

    @property
    def level(self) -> str:
        """The gravest finding."""
        found = {group.level for group in (*self.classes, self.whole)}
        return next(level for level in (SUSPICIOUS, UNUSUAL, CLEAR) if level in found | {CLEAR})

    @property
    def unusual_energies(self) -> int:
        """Images with an outlying energy, where there are more of them than chance would give; else 0."""
        chosen = [group.outliers for group in self.classes if group.outlier_p < SIGNIFICANCE]
        return max([self.whole.outliers if self.whole.outlier_p < SIGNIFICANCE else 0, sum(chosen)])

    @property
    def aligned(self) -> bool:
        """Whether most images share a direction, so that the set as a whole could not be searched."""
        return self.common > COMMON_TO_ALL


def judge(
    energies: Tensor,
    gradients: Gradients,
    *,
    size: tuple[int, int],
    comparable: Tensor | None = None,
    labels: Tensor | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Judgement:
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
    search = _Search(
        energies=energies,
        gradients=gradients,
        size=size,
        usable=energies.isfinite() if comparable is None else comparable & energies.isfinite(),
        seed=seed,
        device=torch.device(device),
        progress=progress,
    )
    return search.run(labels, class_names)


@dataclass(kw_only=True)
class _Search:
    """The state of one judgement."""

    energies: Tensor
    gradients: Gradients
    size: tuple[int, int]
    usable: Tensor
    seed: int
    device: torch.device
    progress: Callable[[str, int, int], None]

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        rows = self.usable.nonzero().flatten()
        reference = rows[torch.randperm(len(rows), generator=generator)[: self._fitting(REFERENCE)]]
        raw, _ = self.gradients(reference.tolist())
        self.spectrum = mean_spectrum(raw).to(self.device)
        self.shifts = null_shifts(self.size, seed=self.seed)
        self.common = median_pair_cosine(whiten(raw.to(self.device), self.spectrum)) if len(rows) > 1 else 0.0
        self.templates: list[Template] = []

    def run(self, labels: Tensor | None, class_names: Sequence[str]) -> Judgement:
        present = [] if labels is None else sorted({label for label in labels.tolist() if label >= 0})
        members = {label: ((labels == label) & self.energies.isfinite()).nonzero().flatten() for label in present}
        members = {label: rows for label, rows in members.items() if len(rows)}
        every = self.energies.isfinite().nonzero().flatten()
        scores = torch.full_like(self.energies, float("nan"))
        scores[every] = robust_scores(self.energies[every])  # images without a label keep this
        for rows in members.values():
            scores[rows] = _scores_in_class(self.energies[rows], scores[rows])
        tests = len(members) + 1
        # The classes come first: the whole set then adds only what no class has alone.
        pool = self._directions(self._highest(every, EXAMINED_IN_ALL))
        classes = self._classes(members, scores, class_names, pool, tests)
        whole = self._finding("whole set", None, every, scores, tests, classes)
        if not self.common > COMMON_TO_ALL:
            whole = self._with_pattern(whole, pool[0], None, tests)
        else:
            whole = replace(whole, level=UNUSUAL)
        return self._with_carriers(classes, whole, labels, scores)

    def _classes(
        self,
        members: dict[int, Tensor],
        scores: Tensor,
        names: Sequence[str],
        pool: tuple[Directions, Tensor],
        tests: int,
    ) -> list[GroupFinding]:
        cap = max(EXAMINED_AT_LEAST, min(EXAMINED_IN_CLASS, EXAMINED_BUDGET // max(1, len(members))))
        found: list[GroupFinding] = []
        alone = {
            label: self._finding(_name(names, label), label, rows, scores, tests) for label, rows in members.items()
        }
        done = 0
        for label, rows in members.items():
            others = [finding for other, finding in alone.items() if other != label]
            finding = self._finding(_name(names, label), label, rows, scores, tests, others)
            group, _ = self._directions(self._highest(rows, cap))
            outside = (~torch.isin(pool[1], rows)).nonzero().flatten()[:EXAMINED_IN_CLASS].to(self.device)
            found.append(self._with_pattern(finding, group, pool[0][outside], tests))
            done += len(rows)
            self.progress("comparing images within classes", done, sum(map(len, members.values())))
        return found

    def _finding(
        self,
        name: str,
        label: int | None,
        rows: Tensor,
        scores: Tensor,
        tests: int,
        others: Sequence[GroupFinding] = (),
    ) -> GroupFinding:
        """The energies of a group; `others` tell how many outliers are usual in this data set."""
        energies, own = self.energies[rows], scores[rows]
        outliers = int((own > OUTLIER).sum())
        rate = max(USUAL_OUTLIERS, float((own < -OUTLIER).float().mean()))
        if label is not None and others:
            rate = max(rate, sum(group.outliers for group in others) / sum(group.images for group in others))
        p_value = min(1.0, tests * binomial_tail(outliers, len(rows), min(rate, 0.5)))
        return GroupFinding(
            name=name,
            label=label,
            images=len(rows),
            examined=0,
            median_energy=float(energies.median()),
            energy_spread=1.4826 * float((energies - energies.median()).abs().median()),
            outliers=outliers,
            outlier_p=p_value,
            level=UNUSUAL if p_value < SIGNIFICANCE else CLEAR,
        )

    def _with_pattern(
        self, finding: GroupFinding, group: Directions, others: Directions | None, tests: int
    ) -> GroupFinding:
        """Search a group for shared directions, and remember their templates."""
        finding = replace(finding, examined=len(group))
        left, first = group, None
        for _ in range(_MOST_PATTERNS):
            if len(left) <= NEIGHBORS + 1:
                break
            shared = shared_direction(left, shifts=self.shifts, others=others)
            first = first or shared
            if min(1.0, tests * shared.p_value) >= SIGNIFICANCE:
                break
            template = fit_template(left.whitened, shared.members, size=self.size, shifts=self.shifts)
            if not any(float(template.direction @ known.direction) > _SAME_PATTERN for known in self.templates):
                self.templates.append(template)
            stay = ~template.carried_by(left.whitened)
            stay[shared.members] = False
            left = left[stay.nonzero().flatten()]
        if first is None:
            return replace(finding, level=finding.level if finding.level == UNUSUAL else TOO_FEW)
        p_value = min(1.0, tests * first.p_value)
        tiled = p_value >= SIGNIFICANCE and _repeats(first)
        return replace(
            finding,
            similarity=first.similarity,
            expected=first.expected,
            pattern_p=p_value,
            tiled=tiled,
            level=SUSPICIOUS if p_value < SIGNIFICANCE else UNUSUAL if tiled else finding.level,
        )

    def _with_carriers(
        self, classes: list[GroupFinding], whole: GroupFinding, labels: Tensor | None, scores: Tensor
    ) -> Judgement:
        patterns = self._patterns()
        carriers = torch.tensor(sorted({row for pattern in patterns for row in pattern.carriers}), dtype=torch.int64)
        updated = []
        for group in classes:
            assert labels is not None
            count = labels[carriers].tolist().count(group.label)
            updated.append(replace(group, carriers=count, level=SUSPICIOUS if count > NEIGHBORS else group.level))
        return Judgement(
            classes=tuple(sorted(updated, key=_rank)),
            whole=replace(whole, carriers=len(carriers)),
            patterns=patterns,
            scores=scores,
            common=self.common,
            spectrum=self.spectrum,
        )

    def _patterns(self) -> tuple[FoundPattern, ...]:
        """Look at every comparable image for the patterns found in the examined ones."""
        if not self.templates:
            return ()
        rows = self.usable.nonzero().flatten()
        bases = torch.stack([template.direction for template in self.templates], dim=1)
        thresholds = torch.tensor([template.threshold for template in self.templates])
        parts = []
        done = 0
        for chunk in rows.split(as_many_as_fit(self.size, most=_CHUNK)):
            raw, _ = self.gradients(chunk.tolist())
            parts.append((whiten(raw.to(self.device), self.spectrum) @ bases).cpu())
            done += len(chunk)
            self.progress("looking for the pattern in every image", done, len(rows))
        cosines = torch.cat(parts)
        carried = cosines > thresholds
        best = cosines.masked_fill(~carried, -1).argmax(1)
        found = []
        for index, template in enumerate(self.templates):
            mine = (carried[:, index] & (best == index)).nonzero().flatten()
            mine = mine[cosines[mine, index].argsort(descending=True)]
            if len(mine) <= NEIGHBORS:
                continue
            sample, _ = self._directions(rows[mine[: self._fitting(REFERENCE)]])
            found.append(
                FoundPattern(
                    template=template,
                    carriers=tuple(rows[mine].tolist()),
                    cosines=tuple(cosines[mine, index].tolist()),
                    similarity=mean_pair_cosine(sample.whitened),
                )
            )
        return tuple(sorted(found, key=lambda pattern: -len(pattern.carriers)))

    def _highest(self, rows: Tensor, count: int) -> Tensor:
        """The comparable rows of highest energy, as many as fit."""
        rows = rows[self.usable[rows]]
        return rows[self.energies[rows].argsort(descending=True)[: self._fitting(count)]]

    def _fitting(self, count: int) -> int:
        """At most so many images; fewer where they are large."""
        return as_many_as_fit(self.size, most=count, least=EXAMINED_AT_LEAST)

    def _directions(self, rows: Tensor) -> tuple[Directions, Tensor]:
        if not len(rows):
            empty = self.spectrum.new_zeros(0, 1)
            return Directions(whitened=empty, pictures=empty, size=self.size), rows
        raw, pictures = self.gradients(rows.tolist())
        whitened = whiten(raw.to(self.device), self.spectrum)
        return Directions(whitened=whitened, pictures=pictures.to(self.device), size=self.size), rows


def _repeats(shared: SharedDirection) -> bool:
    """Whether strong likeness survives shifting by whole JPEG blocks: a tiled pattern, or blocks themselves."""
    return shared.similarity > STRONG and shared.chance > STRONG / 2


def _scores_in_class(energies: Tensor, in_set: Tensor) -> Tensor:
    """Robust scores of a class' energies, given their scores in the whole set.

    Where a third of a class is poisoned, its own median and spread are, too, and nothing stands out from them. The
    set's do not move; they may be asked for classes whose other images are like those of the set.
    """
    own = robust_scores(energies)
    if float(in_set.quantile(0.25)) > USUAL_QUARTILE:
        return own
    return torch.where(in_set > OUTLIER, torch.maximum(own, in_set), own)


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _rank(group: GroupFinding) -> tuple[float, ...]:
    share = group.carriers / group.images if group.level == SUSPICIOUS else 0.0
    p_values = [group.outlier_p] + ([] if group.pattern_p is None else [group.pattern_p])
    excess = 0.0 if group.similarity is None or group.expected is None else group.similarity - group.expected
    return LEVELS.index(group.level), -share, min(p_values), -excess

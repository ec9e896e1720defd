"""Findings on a set and its classes, from energies and energy gradients; and the limits they are held to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from puregen_transforms.detection.statistics import Template

SIGNIFICANCE = 0.01
"""Chance of a false alarm, per kind of test and data set, as far as its assumptions hold."""

OUTLIER = 4.0
"""Robust standard deviations above the median of its class from which on an energy is an outlier."""

COMMON_TO_ALL = 0.05
"""Median cosine of random pairs above which a whole set shares a direction; clean photographs have 0.003."""

SUSPICIOUS, UNUSUAL, CLEAR, TOO_FEW = "suspicious", "unusual", "nothing found", "too few images"
LEVELS = (SUSPICIOUS, UNUSUAL, CLEAR, TOO_FEW)


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
class Findings:
    """What the numbers of a set say.

    Args:
        classes: most suspicious first; empty without labels.
        whole: the set as one group.
        patterns: those shared by most images first.
        scores: (N,) robust score of each energy within its class, or of an outlier of the whole set in a class that
            is crowded with them, within the set; NaN without an image.
        margins: (N,) by how much the cosine with the nearest pattern exceeds the one from which an image is a carrier;
            negative infinity for images that were compared with none.
        common: median cosine of random pairs of the set.
        spectrum: usual amplitudes, as `whiten` needs them to bring other gradients to the templates' scale.
    """

    classes: tuple[GroupFinding, ...]
    whole: GroupFinding
    patterns: tuple[FoundPattern, ...]
    scores: Tensor
    margins: Tensor
    common: float
    spectrum: Tensor

    @property
    def level(self) -> str:
        """The gravest finding."""
        found = {group.level for group in (*self.classes, self.whole)}
        return next(level for level in (SUSPICIOUS, UNUSUAL, CLEAR) if level in found | {CLEAR})

    @property
    def aligned(self) -> bool:
        """Whether most images share a direction, so that the set as a whole could not be searched."""
        return self.common > COMMON_TO_ALL

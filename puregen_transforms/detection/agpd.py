"""AGPD-like: what raises a label's score differs between clean images and those with a trigger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.detection.activations import Activations, read_activations, read_suspects
from puregen_transforms.detection.classes import matching_reserved, reserved_rows, rows_by_class
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.latent_space import LEAST_CLASSES, anomaly_indices, centered
from puregen_transforms.detection.report import DetectionReport, count_by_class

LEAST_IMAGES = 3
"""Images of a class from which on its gradients have a distribution; smaller classes are not searched."""

_BINS = 99
_WINDOW = 10
_UNSTEADY = 5.0
"""Weight of the deviation over the mean in choosing the steadiest rounds."""


@dataclass(frozen=True, kw_only=True)
class Agpd(Detector):
    """Flag images of a class whose activation gradients point elsewhere than those of its clean images.

    After AGPD (Yuan et al. 2025): the gradient of the label's logit is taken in the inputs of each BatchNorm layer, and
    averaged over the places. A class is compared with two gradients: the mean one of its reserved images, and that of
    its own image most unlike that mean. The root mean square difference of the two cosines is the class's gap: large
    where many images side with one of them. A class whose gap lies more than `threshold` robust deviations above the
    median class is a target, in the layer where the largest deviation is found. If there is none, classes with a gap
    above `several_targets` in one of the last layers but one are targets, which is how attacks on many classes are
    seen. In a target class, images join the most unlike one round by round, always those in the lowest `step` of
    the range of (1 - cosine with the joined) / ((1 - that) + (1 - cosine with the clean)), until joining no longer
    changes how these ratios are distributed (smallest Jensen-Shannon distance, by mean + 5 deviations of ten rounds).

    Published code reads the outputs of convolutions in the residual blocks, which are the inputs of BatchNorm layers
    there; here all such layers are read, of any network. It also leaves out the last round before the steady ones,
    which is all of a compact group. Published weak points: weak clean-label blends with few clean images, and label
    errors, whose gradients differ as well. A few images in a hundred of their class may be too few to be seen joining.

    A score is 1 plus the deviation of the class, times how much nearer the gradient is to the joined.

    Args:
        threshold: robust deviations above which a class is a target.
        several_targets: gap above which classes are targets where none stands out; None leaves this rule out.
        step: share of the range of ratios that joins in a round.
        per_class: reserved images of a class that are used, first those that the network gets right.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "reserved", "network"})
    least_classes: ClassVar[int] = LEAST_CLASSES

    threshold: float = math.exp(2)
    several_targets: float | None = 0.3
    step: float = 0.05
    per_class: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.step < 1 or self.per_class < 1:
            raise ValueError(
                "Expected a step between 0 and 1 and at least one reserved image of each class, but got "
                f"step={self.step} and per_class={self.per_class}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Compare the gradients of each class with those of its clean images.

        Raises:
            ValueError: fewer than three classes, a network without BatchNorm, or a reserved set that has other classes
                or no image of one; see also `read_suspects`.
            FloatingPointError: a feature is not finite.
        """
        assert suspects.network is not None
        reserved, classes = matching_reserved(suspects), rows_by_class(suspects)
        if len(classes) < LEAST_CLASSES:
            raise ValueError(
                f"Expected at least {LEAST_CLASSES} classes, which AGPD compares with each other, but got "
                f"{len(classes)}. Take a detector that looks at images or at one class by itself."
            )
        clean_rows = reserved_rows(suspects, reserved, least=1)
        found = read_suspects(suspects, gradients=True)
        if not found.norms:
            raise ValueError("Expected a network with BatchNorm2d layers, in whose inputs gradients are taken.")
        known = read_activations(
            suspects.network,
            reserved.images,
            labels=reserved.labels,
            device=suspects.device,
            progress=suspects.progress,
        )
        references = {label: self._references(known, rows, label) for label, rows in clean_rows.items()}
        searched = {label: rows for label, rows in classes.items() if len(rows) >= LEAST_IMAGES}
        gaps = [
            [class_gap(_gradients(found, layer)[rows], references[label][layer]) for label, rows in searched.items()]
            for layer in range(len(found.norms))
        ]
        layer, targets, deviations = self._targets(gaps)
        scores, flagged = torch.zeros(len(suspects)), torch.zeros(len(suspects), dtype=torch.bool)
        facts: dict[int, dict[str, float | None]] = {}
        for place, (label, rows) in enumerate(searched.items()):
            gradients, reference = _gradients(found, layer)[rows].double(), references[label][layer].double()
            joined = most_unlike(gradients, reference)
            if place in targets:
                joined = join(gradients, reference, step=self.step)
                flagged[rows[joined]] = True
            near = 1 - ratios(gradients, gradients[joined].mean(0), reference)
            scores[rows] = ((1 + deviations[place]) * near).float()
            facts[label] = {"gap": gaps[layer][place], "deviation": deviations[place]}
        counts = count_by_class(flagged, suspects.labels, suspects.class_names, facts)
        return DetectionReport(scores=scores, flagged=flagged, classes=counts)

    def _references(self, known: Activations, rows: Tensor, label: int) -> list[Tensor]:
        """Average the gradients of a class's reserved images in each layer: (channels,) each."""
        right = known.logits[rows].argmax(1) == label
        chosen = torch.cat([rows[right], rows[~right]] if not right.any() else [rows[right]])[: self.per_class]
        return [_gradients(known, layer)[chosen].mean(0) for layer in range(len(known.norms))]

    def _targets(self, gaps: list[list[float]]) -> tuple[int, list[int], list[float]]:
        """Choose the layer, the places of target classes, and the deviations of all classes there."""
        deviations = [anomaly_indices(own) for own in gaps]
        layer = max(range(len(gaps)), key=lambda index: max(deviations[index], default=0.0))
        targets = [place for place, value in enumerate(deviations[layer]) if value > self.threshold]
        if targets or self.several_targets is None:
            return layer, targets, deviations[layer]
        late = range(max(0, len(gaps) - 4), max(1, len(gaps) - 1))
        above = {
            index: [place for place, gap in enumerate(gaps[index]) if gap > self.several_targets] for index in late
        }
        most = max(late, key=lambda index: len(above[index]))
        return (most, above[most], deviations[most]) if above[most] else (layer, [], deviations[layer])


def _gradients(activations: Activations, layer: int) -> Tensor:
    found = activations.norms[layer].gradients
    assert found is not None
    return found


def most_unlike(gradients: Tensor, reference: Tensor) -> Tensor:
    """Find the row whose gradient is most unlike the clean one: (1,) int64."""
    return F.cosine_similarity(gradients, reference[None]).argmin()[None]


def class_gap(gradients: Tensor, reference: Tensor) -> float:
    """Measure how far the images of a class side with the clean gradient or with the one most unlike it.

    Args:
        gradients: (n, channels).
        reference: (channels,) of clean images.

    Returns:
        Root mean square difference of the cosines with both; 0 where the gradients are alike.
    """
    if not bool(centered(gradients).any()):
        return 0.0
    values, clean = gradients.double(), reference.double()
    first = most_unlike(values, clean)
    differences = F.cosine_similarity(values, clean[None]) - F.cosine_similarity(values, values[first])
    differences[first] = 0
    return float(differences.square().mean().sqrt())


def ratios(gradients: Tensor, poisoned: Tensor, clean: Tensor) -> Tensor:
    """Place gradients between the poisoned direction, 0, and the clean one, 1: (n, channels) -> (n,)."""
    far = 1 - F.cosine_similarity(gradients, poisoned[None])
    near = 1 - F.cosine_similarity(gradients, clean[None])
    return far.clamp(min=0) / (far.clamp(min=0) + near.clamp(min=0)).clamp_min(1e-12)


def join(gradients: Tensor, reference: Tensor, *, step: float) -> Tensor:
    """List the images that side with the most unlike one, before joining becomes a steady trickle of clean ones.

    Args:
        gradients: (n, channels) float64 of a class.
        reference: (channels,) of its clean images.
        step: share of the range of ratios that joins in a round.

    Returns:
        (m,) int64 rows.
    """
    rounds = [most_unlike(gradients, reference)]
    left = torch.ones(len(gradients), dtype=torch.bool)
    left[rounds[0]] = False
    before, changes = ratios(gradients[left], gradients[rounds[0]][0], reference), list[float]()
    while left.any():
        found = ratios(gradients[left], gradients[~left].mean(0), reference)
        low, high = found.aminmax()
        if high - low <= 1e-9:
            break
        joining = (found - low) / (high - low) <= step
        rounds.append(left.nonzero().flatten()[joining])
        left[rounds[-1]] = False
        changes.append(_distance(before, found[~joining]))
        before = found[~joining]
    return torch.cat(rounds[: 1 + _steadiest(changes)])  # the first round is the most unlike image alone


def _distance(first: Tensor, second: Tensor) -> float:
    """Compute the Jensen-Shannon distance of two sets of ratios, in `_BINS` bins; 1 where one is empty."""
    if not len(first) or not len(second):
        return 1.0
    shares = [torch.histc(values, _BINS, 0, 1) / len(values) for values in (first, second)]
    middle = (shares[0] + shares[1]) / 2
    terms = [torch.special.xlogy(own, own / middle.clamp_min(1e-300)).sum() for own in shares]
    return math.sqrt(max(0.0, float(terms[0] + terms[1]) / 2))


def _steadiest(changes: list[float]) -> int:
    """Find where the rounds begin that change least, and most evenly."""
    width = min(_WINDOW, len(changes))
    windows = torch.tensor(changes, dtype=torch.float64).unfold(0, width, 1) if width else torch.zeros(1, 1)
    return int((windows.mean(1) + _UNSTEADY * windows.std(1, correction=0)).argmin())

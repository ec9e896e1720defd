"""Search each class for a part that a network tells from the rest, and that clean images of the class lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.detection.activations import (
    Activations,
    batches,
    evaluating,
    read_activations,
    read_suspects,
)
from puregen_transforms.detection.classes import matching_reserved, rows_by_class
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.side_network import look_again
from puregen_transforms.detection.split_search import (
    FOLDS,
    SURE,
    Space,
    Split,
    against_references,
    cross_fitted,
    make_space,
    search_class,
    two_gaussians,
)
from puregen_transforms.functional.images import normalize, to_pixels
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.models.folding import fold_norms

LEAST_IMAGES = 50
"""Images of a class from which on it is searched."""

CLEAN_FLAGGED = 0.05
"""Share of the clean images of a poisoned class that may be flagged, where its sides overlap."""

OTHERS = 500
"""Images of other classes that tell the sides apart where there are no clean ones of the class."""

GROUPS = 3
"""Groups of consecutive layers between the first and the last, each a space of its own."""


@dataclass(frozen=True, kw_only=True)
class ClassSplit(Detector):
    """Flag the part of a class that the network tells from the rest of it, and that has no clean images.

    Our own. Poison and clean images of a class reach the same label on different ways. For each class, in several
    groups of layers, a linear classifier and two Gaussians on its cross-fitted values look for two groups of images
    (`split_search.climb`). A class is held for poisoned if its sides are far apart, or if they are apart and clean
    images of the class, which the network was not trained on, fall on one of them alone. Without clean images, distance
    alone decides, and the poisoned side is that with fewer images of other classes. Where the sides of a poisoned class
    overlap, the values of all spaces, and those of a classifier of the class against its clean images, are put
    together, and two Gaussians on the sum decide about each image; then a network that is taught the two sides, if it
    tells them apart better (`look_again`). Evidence for a class gates its images: scores of one
    that is not held for poisoned never count.

    Covers, which carry a trigger and keep their label, are flagged with it. Poison of less than one in fifty images of
    a class, or with a trigger of its own on each image, is not found.

    A score is the posterior, and 1 more in a poisoned class. Facts of a class are `distance`, `share` on the side that
    lacks clean images, and `chance` (`Split.chance`) of its most telling split.

    Args:
        alone: distance of the sides from which on a class is held for poisoned, whatever clean images say.
        least: distance from which on clean images are asked.
        chance: that so few clean images fall on one side, below which the class is held for poisoned.
        epochs: of the networks that look again where sides overlap; 0 trains none.
    """

    version: ClassVar[int] = 4

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "network"})
    uses: ClassVar[frozenset[str]] = frozenset({"reserved"})

    alone: float = 7.0
    least: float = 2.5
    chance: float = 1e-6
    epochs: int = 8

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Search each class.

        Raises:
            ValueError: a reserved set that does not fit; see also `read_suspects`.
            FloatingPointError: a feature is not finite.
        """
        network, labels = suspects.network, suspects.labels
        assert network is not None and labels is not None
        images, own = suspects.tensor(), read_suspects(suspects)
        witness = loss_under_changes(
            network, images, labels, own.logits, device=suspects.device, progress=suspects.progress
        )
        reserved = None if suspects.reserved is None else matching_reserved(suspects)
        clean = own if reserved is None else read_activations(network, reserved.images, device=suspects.device)
        generator = torch.Generator().manual_seed(suspects.seed)
        scores, flagged = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.bool)
        facts: dict[int, dict[str, float | None]] = {}
        classes = rows_by_class(suspects)
        for done, (label, rows) in enumerate(classes.items(), 1):
            suspects.progress("searching classes", done, len(classes))
            if len(rows) < LEAST_IMAGES:
                continue
            references = rows[:0] if reserved is None else (reserved.labels == label).nonzero().flatten()
            if len(references):
                spaces = spaces_of(own, rows, clean, references, same_class=True)
            else:
                others = ((labels != label) & (labels >= 0)).nonzero().flatten()
                others = others[torch.randperm(len(others), generator=generator)[:OTHERS]]
                spaces = spaces_of(own, rows, own, others, same_class=False)
            splits = search_class(spaces, witness[rows], seed=suspects.seed)
            if not splits:
                continue
            best = max(splits, key=self._evidence)
            facts[label] = {"distance": best.distance, "share": best.share, "chance": best.chance}
            posterior = best.posterior
            if self._is_poisoned(best):
                if best.distance < self.alone:
                    posterior, distance = refined(spaces, best, seed=suspects.seed)
                    others = ((labels != label) & (labels >= 0)).nonzero().flatten()
                    posterior = look_again(
                        images,
                        rows,
                        others,
                        images[others[:OTHERS]] if reserved is None else reserved.images,
                        posterior,
                        distance,
                        epochs=self.epochs,
                        seed=suspects.seed,
                        device=suspects.device,
                        state=suspects.state,
                        progress=suspects.progress,
                    )
                flagged[rows] = posterior > 0.5
                posterior = 1 + posterior
            scores[rows] = posterior.float()
        return DetectionReport(
            scores=scores, flagged=flagged, classes=count_by_class(flagged, labels, suspects.class_names, facts)
        )

    def _is_poisoned(self, split: Split) -> bool:
        lacking = split.chance is not None and split.chance < self.chance
        return split.distance >= (self.least if lacking else self.alone)

    def _evidence(self, split: Split) -> tuple[bool, float, float, float]:
        """Order splits: the farthest of those that are far enough alone, then by what clean images say."""
        far = split.distance if split.distance >= self.alone else 0.0
        return self._is_poisoned(split), far, -1.0 if split.chance is None else -split.chance, split.distance


def spaces_of(
    own: Activations, rows: Tensor, clean: Activations, references: Tensor, *, same_class: bool
) -> list[Space]:
    """Make the spaces of a class: all layers together, the first, groups of those after it, and the features.

    Args:
        own: what the network makes of the suspects.
        rows: (n,) int64, those of the class.
        clean: what it makes of the images that references are taken from.
        references: (m,) int64, rows of these.
        same_class: see `Space`.
    """
    from_own, from_clean = _columns(own, rows), _columns(clean, references)
    last = len(from_own) - 1
    inner = [chosen.tolist() for chosen in torch.arange(1, max(last, 1)).tensor_split(GROUPS) if len(chosen)]
    groups = {"all layers": list(range(last + 1))}
    if last > 0:  # a network without BatchNorm has its features alone
        groups |= {"the first layer": [0], "the features": [last]}
    groups |= {f"layers {chosen[0] + 1} to {chosen[-1] + 1}": chosen for chosen in inner}
    return [
        make_space(
            name,
            [from_own[one] for one in chosen],
            [from_clean[one] for one in chosen],
            same_class=same_class,
        )
        for name, chosen in groups.items()
    ]


def refined(spaces: list[Space], split: Split, *, seed: int) -> tuple[Tensor, float]:
    """Decide about each image of a poisoned class by all spaces together.

    The posterior is no more than a half for images that lie below where one in twenty clean images of the class, if
    there are any, lies.

    Args:
        spaces: of the class, that of all layers first.
        split: the most telling one.
        seed: of folds.

    Returns:
        (n,) posterior of the poisoned side, and the distance of the sides.
    """
    generator = torch.Generator().manual_seed(seed)
    folds = torch.randperm(len(split.posterior), generator=generator) % FOLDS
    first, second = split.posterior > SURE, split.posterior < 1 - SURE
    values, of_clean = _sum([cross_fitted(space, first, second, folds) for space in spaces])
    if not (spaces[0].same_class and len(of_clean) >= LEAST_IMAGES):
        return two_gaussians(values, split.posterior > 0.5)
    unlike = _sum([against_references(spaces[0], folds, generator) for _ in range(FOLDS)])
    values, of_clean = _sum([(values, of_clean), unlike])
    posterior, distance = two_gaussians(values, split.posterior > 0.5)
    unlikely = values > of_clean.quantile(1 - CLEAN_FLAGGED)
    return torch.where(unlikely, posterior, posterior.clamp(max=0.5)), distance


def loss_under_changes(
    network: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, *, device: torch.device, progress: Progress
) -> Tensor:
    """Measure how much less sure of the label a network is where an image is changed a little: (N,) float64, in nats.

    Triggers bear blur, shifts and compression worse than objects do, or better.

    Args:
        network: on `device`.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64; where negative, the result is 0.
        logits: (N, classes) float32, of the images as they are, on the CPU.
        device: where to work.
        progress: told what is being done.
    """
    after = torch.zeros(len(images), dtype=torch.float64)
    step = max(1, 2**19 // (images.shape[-1] * images.shape[-2]))
    known = labels.clamp(min=0)
    with evaluating(network), torch.no_grad():
        quick = fold_norms(network, normalize(images[:2].to(device)))
        for start in range(0, len(images), step):
            progress("changing images a little", start, len(images))
            part, own = images[start : start + step], known[start : start + step]
            sure = [_log_chance(_scores(quick, changed, device), own) for changed in _changed(part)]
            after[start : start + step] = torch.stack(sure).mean(0)
    progress("changing images a little", len(images), len(images))
    return torch.where(labels >= 0, _log_chance(logits, known) - after, 0.0)


def _scores(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    return torch.cat([network(normalize(part.to(device))).float().cpu() for part in batches(images)])


def _log_chance(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the logarithm of the probability of each image's label: (n,) float64."""
    return logits.log_softmax(1).gather(1, labels[:, None])[:, 0].double()


def _changed(images: Tensor) -> Iterator[Tensor]:
    """Blur, halve and double, crop, shift, compress, and cover with noise, which is the same on each image."""
    values, size = images.float(), images.shape[-2:]
    edge = max(1, size[0] // 8)
    yield to_pixels(F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1))
    yield to_pixels(F.interpolate(F.avg_pool2d(values, 2), size=size, mode="bilinear"))
    yield to_pixels(F.interpolate(values[..., edge:-edge, edge:-edge], size=size, mode="bilinear"))
    yield images.roll((edge - 1, 1 - edge), (2, 3))
    yield jpeg(images, 20)
    noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
    yield to_pixels(values + 16 * noise)


def _columns(found: Activations, rows: Tensor) -> list[Tensor]:
    """List what each BatchNorm layer was given of some images, and their features: (n, columns) each."""
    layers = [torch.cat([one.highest[rows], one.mean[rows], one.lowest[rows]], 1) for one in found.norms]
    return [*layers, found.features[rows]]


def _sum(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Add up values of images, each brought to mean 0 and variance 1, and those of clean images on the same scales."""
    scales = [(own.mean(), own.std().clamp(min=1e-12)) for own, _ in parts]
    scaled = [((own - m) / s, (clean - m) / s) for (own, clean), (m, s) in zip(parts, scales, strict=True)]
    return torch.stack([own for own, _ in scaled]).sum(0), torch.stack([clean for _, clean in scaled]).sum(0)

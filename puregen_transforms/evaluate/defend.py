"""Defend a set before training, as a `DefenseSpec` says: detect, drop or purify what was found, purify the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from puregen_transforms.data.mapped import changed_rows, copied_rows, empty_images, release
from puregen_transforms.defenses.registry import build_training_defense
from puregen_transforms.detection.registry import build_detector
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.evaluate.cells import Component, DefenseSpec
from puregen_transforms.evaluate.portable import portable
from puregen_transforms.evaluate.store import Store, fingerprint
from puregen_transforms.purifier.puregen_config import PureGenConfig
from puregen_transforms.transforms.fitting import threshold_of
from puregen_transforms.transforms.puregen import PureGen

_CHUNK = 1000
"""Clean images that are computed and kept together."""

_CHUNK_PIXELS = 2**23
"""The same of all images, in pixels."""


@dataclass(frozen=True, eq=False)
class Defended:
    """What is left of a set for the victim to learn.

    Args:
        images: (N, 3, H, W) uint8, of all rows of the set.
        rows: (n,) int64, those that are learned; None is all.
        flagged: (N,) bool, rows held for poisoned; None if nothing looks for poison.
        scores: (N,) suspicion of the last detector; None if there is none.
        seconds: that the detectors took.
    """

    images: Tensor
    rows: Tensor | None = None
    flagged: Tensor | None = None
    scores: Tensor | None = None
    seconds: float = 0.0


class Purify(Protocol):
    """Purifies the set that is being defended."""

    def __call__(self, options: Mapping[str, Any], rows: Tensor | None = None) -> Defended:
        """Purify some rows (n,) int64, or all: `images` are those rows alone.

        Args:
            options: of `PureGen`.
            rows: None is all.
        """
        ...


def defend(
    spec: DefenseSpec, images: Tensor, *, search: Callable[[Component], DetectionReport], purify: Purify
) -> Defended:
    """Apply the parts of a defense that act before training.

    Args:
        spec: the parts.
        images: (N, 3, H, W) uint8, the set that may be poisoned.
        search: runs a detector over the set.
        purify: purifies images of the set.
    """
    changed, flagged, scores, seconds = images, None, None, 0.0
    for component in spec.detect:
        report = search(component)
        flagged = report.flagged if flagged is None else flagged | report.flagged
        scores, seconds = report.scores, seconds + report.seconds
    if spec.purify_others is not None:
        purified = purify(spec.purify_others)
        changed = purified.images
        if flagged is None:
            return Defended(changed, flagged=purified.flagged, scores=purified.scores)
    if flagged is None:
        return Defended(changed)
    if spec.keep_flagged:
        return Defended(changed, flagged=flagged, scores=scores, seconds=seconds)
    if spec.purify_flagged is None:
        return Defended(changed, rows=(~flagged).nonzero().flatten(), flagged=flagged, scores=scores, seconds=seconds)
    rows = flagged.nonzero().flatten()
    changed = copied_rows(changed)
    changed[rows] = purify(spec.purify_flagged, rows).images
    return Defended(changed, flagged=flagged, scores=scores, seconds=seconds)


def identity_of(spec: DefenseSpec) -> dict[str, Any]:
    """Name, JSON-ready, what decides a defense beside its settings: versions, and digests of recipes and weights.

    Raises:
        ValueError: an unknown detector, training defense or setting.
    """
    found: dict[str, Any] = {}
    for name, options in (("purify_flagged", spec.purify_flagged), ("purify_others", spec.purify_others)):
        if options is not None:
            found[name] = _digest(_transform(options, "cpu"))
    for component in spec.detect:
        detector = build_detector(component.name, **component.settings)
        found.setdefault("detect", []).append([detector.version, detector.identity()])
    if spec.train is not None:
        found["train"] = build_training_defense(spec.train.name, **spec.train.settings).version
    return found


@dataclass(frozen=True, eq=False)
class KeptPurifier:
    """Purifies a set, and keeps what became of each image.

    It knows the clean images, so that what becomes of rows that no attack alters is computed once for all attacks. No
    defense sees them: purification is given poisoned images and rows alone.

    Args:
        images: (N, 3, H, W) uint8, the set that may be poisoned.
        clean: (N, 3, H, W) uint8, the same without poison.
        store: of results.
        device: where to purify.
    """

    images: Tensor
    clean: Tensor
    store: Store
    device: torch.device | str

    def __call__(self, options: Mapping[str, Any], rows: Tensor | None = None) -> Defended:
        """Purify some rows, or all; see `Purify`. An image's noise goes by its row."""
        transform = _transform(options, self.device)
        if transform.config.uses_threshold:
            if rows is not None:
                raise ValueError(
                    f"Expected a method without a threshold for flagged images, but got {transform.config.method!r}: "
                    "its threshold is that of the whole set."
                )
            return self._where_suspicious(transform)
        key, change = ["puregen", _digest(transform)], _purified(transform)
        return Defended(self.of_each(key, change) if rows is None else self._kept(key, change, self.images[rows], rows))

    def of_each(self, key: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Compute something of every image.

        Args:
            key: JSON-ready, all that decides it beside an image and its row.
            change: (n, 3, H, W) uint8 and (n,) int64 rows -> n results, each of its own image and row alone.

        Returns:
            N results.
        """
        altered = changed_rows(self.images, self.clean).nonzero().flatten()
        most = max(1, _CHUNK_PIXELS // self.images.shape[-2:].numel())
        parts = [(self.clean, rows) for rows in torch.arange(len(self.images)).split(min(_CHUNK, most))]
        parts += [(self.images, rows) for rows in altered.split(most) if len(rows)]
        result: Tensor | None = None
        for images, rows in parts:
            part = self._kept(key, change, images[rows], rows)
            result = self._room_for(part) if result is None else result
            result[rows] = part
            release(images)
            release(result)
        assert result is not None
        return result

    def _room_for(self, part: Tensor) -> Tensor:
        """Make room for the results of all images, like those of some: values, or images of the set's size."""
        if part.dtype == torch.uint8 and part.shape[1:] == self.images.shape[1:]:
            return empty_images(len(self.images), (part.shape[-2], part.shape[-1]))
        return part.new_empty((len(self.images), *part.shape[1:]))

    def _kept(self, key: Any, change: Callable[[Tensor, Tensor], Tensor], images: Tensor, rows: Tensor) -> Tensor:
        return self.store.tensors(
            "per-image", [key, fingerprint(images, rows)], lambda: {"result": change(images, rows)}
        )["result"]

    def _where_suspicious(self, transform: PureGen) -> Defended:
        """Purify the images above a threshold that depends on all; only what becomes of those is worth keeping."""
        reference = PureGen(device=self.device)
        scores = self.of_each(["energy", reference.digest], lambda images, rows: reference.energy(images))
        assert transform.config.filter_fraction is not None
        threshold = threshold_of(scores, transform.config.filter_fraction)
        fitted = PureGen(**{**transform.to_dict(), "energy_threshold": threshold}, device=self.device)
        flagged = scores >= threshold
        images, rows = copied_rows(self.images), flagged.nonzero().flatten()
        images[rows] = self._kept(["puregen", _digest(fitted)], _purified(fitted), self.images[rows], rows)
        return Defended(images, flagged=flagged, scores=scores)


def _transform(options: Mapping[str, Any], device: torch.device | str) -> PureGen:
    return PureGen(**{"seed": 0, **options}, device=device)


def _digest(transform: PureGen) -> str:
    """Give the transform's digest, the same wherever its checkpoints lie: the weights themselves are in it."""
    return PureGenConfig.from_dict(portable(transform.to_dict())).digest(transform.weights)


def _purified(transform: PureGen) -> Callable[[Tensor, Tensor], Tensor]:
    seed = transform.config.seed or 0
    return lambda images, rows: transform.purifier(images, sample_ids=rows, seed=seed)

"""What a method costs a clean image, and what it leaves of a trigger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.evaluate.metrics import auroc, psnr_of_set, remaining_norm, survival
from puregen_transforms.transforms.puregen import PureGen

Energies = Callable[[Tensor], Tensor]
"""(N, 3, H, W) uint8 -> (N,) energies."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A method against one trigger.

    Args:
        psnr: of purified poisoned images against the clean originals, in decibels.
        survival: share of the trigger left along its own direction; see `metrics.survival`.
        remaining_norm: left in any direction; see `metrics.remaining_norm`.
        auroc_before: of the energy, poisoned against clean images.
        auroc_after: the same after purification; 0.5 is no difference.
    """

    psnr: float
    survival: float
    remaining_norm: float
    auroc_before: float
    auroc_after: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One method on one image set.

    Args:
        images: how many.
        psnr_clean: of purified clean images against themselves before, over the set, in decibels.
        changed: share of the clean images that are not exactly as before.
        images_per_second: while purifying the clean images, networks loaded.
        attacks: by the trigger's budget in units of 1/255.
    """

    images: int
    psnr_clean: float
    changed: float
    images_per_second: float
    attacks: Mapping[str, Attacked]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def judge(purify: PureGen, clean: Tensor, poisoned: Mapping[int, Tensor], energies: Energies) -> Quality:
    """Purify clean and poisoned images with the same noise, and measure.

    Args:
        purify: with a seed, and a threshold if its method needs one.
        clean: (N, 3, H, W) uint8.
        poisoned: the first M of them with a trigger, by its budget in units of 1/255.
        energies: of the network that tells poisoned images from clean ones.
    """
    assert purify.config.seed is not None
    ids = torch.arange(len(clean))

    def run(images: Tensor) -> Tensor:
        return purify.purifier(images, sample_ids=ids[: len(images)], seed=purify.config.seed or 0)

    run(clean[:2])
    started = time.perf_counter()
    cleaned = run(clean)
    seconds = time.perf_counter() - started
    energies_before, energies_after = energies(clean), energies(cleaned)
    attacks = {}
    for budget, triggered in poisoned.items():
        purified, count = run(triggered), len(triggered)
        quadruple = (clean[:count], triggered, cleaned[:count], purified)
        attacks[str(budget)] = Attacked(
            psnr=psnr_of_set(purified, clean[:count]),
            survival=survival(*quadruple).mean().item(),
            remaining_norm=remaining_norm(*quadruple).mean().item(),
            auroc_before=auroc(energies(triggered), energies_before),
            auroc_after=auroc(energies(purified), energies_after),
        )
    return Quality(
        images=len(clean),
        psnr_clean=psnr_of_set(cleaned, clean),
        changed=(cleaned != clean).flatten(1).any(1).float().mean().item(),
        images_per_second=len(clean) / seconds,
        attacks=attacks,
    )

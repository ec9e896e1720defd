"""Teach a network to tell one side of a class from everything else, and ask it about the class's images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.detection.activations import batches, evaluating
from puregen_transforms.detection.network import train_network
from puregen_transforms.detection.split_search import SURE, two_gaussians
from puregen_transforms.functional.images import normalize

LOOKS = 2
"""Networks that are trained one after the other, each on what the one before it is sure of."""

OTHERS = 2
"""Images of other classes in the training set, by image of the poisoned side, which counts twice."""

CLEAN_ABOVE = 0.03
"""Share of clean images that the next network may be taught as poison."""

LEAST = 20
"""Sure images of the poisoned side below which there is nothing to learn."""


def look_again(
    images: Tensor,
    rows: Tensor,
    others: Tensor,
    clean: Tensor,
    posterior: Tensor,
    distance: float,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    state: Path | None,
    progress: Progress,
) -> Tensor:
    """Decide about the images of a poisoned class by networks of two classes, if these tell its sides apart better.

    A network that learned ten classes knows a trigger no better than its victims need. One that is taught the images
    which surely belong to the poisoned side, against the sure rest, images of other classes, and clean images, has the
    trigger alone to go by: what the poisoned images show are the same classes as on the other side. Two Gaussians on
    its answers decide. Where these are no farther apart than before, the trigger could not be learned from so few
    images, and what was known before is returned.

    Args:
        images: (N, 3, H, W) uint8, of the set.
        rows: (n,) int64, of the class.
        others: (m,) int64, rows of other classes.
        clean: (k, 3, H, W) uint8, images without poison; half of them are learned, the others give the limit from
            which on an image is taught as poison to the next network.
        posterior: (n,) float64, how surely an image is poisoned.
        distance: between the sides, by which this was decided.
        epochs: of each network; 0 trains none.
        seed: of weights, order and choices.
        device: where to train.
        state: folder for what is finished; None keeps nothing.
        progress: told what is being done.

    Returns:
        (n,) float64 posterior.
    """
    sure, rest = posterior > SURE, posterior < 1 - SURE
    generator = torch.Generator().manual_seed(seed)
    taught = torch.randperm(len(clean), generator=generator) % 2 == 0
    for look in range(LOOKS if epochs else 0):
        first, second = rows[sure], rows[rest]
        if min(len(first), len(second)) < LEAST:
            break
        drawn = others[torch.randperm(len(others), generator=generator)[: OTHERS * len(first)]]
        parts = (images[first], images[first], images[second], images[drawn], clean[taught])
        network = train_network(
            torch.cat(parts),
            (torch.arange(sum(map(len, parts))) < 2 * len(first)).long(),
            classes=2,
            epochs=epochs,
            seed=seed + look,
            device=device,
            state=state,
            progress=progress,
        )
        values, of_clean = (_answers(network, asked, device) for asked in (images[rows], clean[~taught]))
        found, apart = two_gaussians(values, sure if look == 0 else values > 0)
        if apart <= distance:
            break
        posterior = found
        sure, rest = values > of_clean.quantile(1 - CLEAN_ABOVE), values < of_clean.median()
    return posterior


def _answers(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Give how much a network prefers the second of two classes: (n,) float64."""
    with evaluating(network), torch.no_grad():
        scores = torch.cat([network(normalize(part.to(device))).double().cpu() for part in batches(images)])
    return scores[:, 1] - scores[:, 0]

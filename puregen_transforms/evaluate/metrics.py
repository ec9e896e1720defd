"""How far images moved, what is left of a perturbation, and how well a score tells two groups apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.evaluate.summaries import FALSE_ALARMS


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image.

    Args:
        images: (N, C, H, W) uint8.
        originals: the same shape.

    Returns:
        (N,) in decibels; infinite where nothing differs.
    """
    error = (images.float() - originals.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def survival(clean: Tensor, poisoned: Tensor, purified_clean: Tensor, purified_poisoned: Tensor) -> Tensor:
    """Share of each image's perturbation that purification leaves, along the perturbation's own direction.

    With d = poisoned - clean, it is <purified_poisoned - purified_clean, d> / <d, d>: 1 if nothing
    was removed, 0 if what is left points elsewhere. The chain's noise differs between the two
    purified images, so single values scatter; their mean is the figure to read.

    Args:
        clean: (N, C, H, W) uint8.
        poisoned: the same images with the perturbation, the same shape.
        purified_clean: `clean` after purification.
        purified_poisoned: `poisoned` after purification.

    Returns:
        (N,) shares.
    """
    change = (poisoned.float() - clean.float()).flatten(1)
    left = (purified_poisoned.float() - purified_clean.float()).flatten(1)
    return (left * change).sum(1) / change.square().sum(1)


def psnr_of_set(images: Tensor, originals: Tensor) -> float:
    """Peak signal-to-noise ratio of the mean squared error over a whole set, in decibels.

    Unlike the mean of `psnr`, it is finite as soon as one image differs, so methods that leave some images
    untouched can be compared with those that do not.

    Args:
        images: (N, C, H, W) uint8.
        originals: the same shape.
    """
    error = (images.float() - originals.float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Measure the structural similarity of each image (Wang et al. 2004), mean over pixels and channels.

    As published: a Gaussian window of 11x11 pixels of deviation 1.5, whole windows alone, constants 0.01 and 0.03.

    Args:
        images: (N, C, H, W) uint8, of 11 pixels a side or more.
        originals: the same shape.

    Returns:
        (N,), 1 where nothing differs.
    """
    places = torch.arange(11.0) - 5
    bell = (-places.square() / (2 * 1.5**2)).exp()
    window = torch.outer(bell, bell) / bell.sum() ** 2
    x, y = (one.double().flatten(0, 1)[:, None] for one in (images, originals))

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window.double()[None, None])

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    shared = mean(x * y) - mean_x * mean_y
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + first) * (2 * shared + second)
    similar /= (mean_x**2 + mean_y**2 + first) * (var_x + var_y + second)
    return similar.mean((1, 2, 3)).view(len(images), -1).mean(1).float()


def remaining_norm(clean: Tensor, poisoned: Tensor, purified_clean: Tensor, purified_poisoned: Tensor) -> Tensor:
    """Measure what purification leaves of each image's perturbation, in any direction: a ratio of L2 norms.

    Purify both with the same noise (the same sample ids), or the noise's own difference is counted too.

    Args:
        clean: (N, C, H, W) uint8.
        poisoned: the same images with the perturbation, the same shape.
        purified_clean: `clean` after purification.
        purified_poisoned: `poisoned` after purification.

    Returns:
        (N,) ratios.
    """
    left = (purified_poisoned.float() - purified_clean.float()).flatten(1).norm(dim=1)
    return left / (poisoned.float() - clean.float()).flatten(1).norm(dim=1)


def auroc(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a random positive scores above a random negative; ties count half.

    Args:
        positives: (N,) scores of the group that should score higher.
        negatives: (M,) scores of the other.
    """
    positives, negatives = positives.double(), negatives.double()
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives)
    not_above = torch.searchsorted(ordered, positives, right=True)
    return float((below + not_above).double().mean() / 2 / len(negatives))


def found_at(positives: Tensor, negatives: Tensor, rate: float = FALSE_ALARMS) -> float:
    """Measure the share of positives that score above all but a share of the negatives.

    Args:
        positives: (N,) scores of the group that should score higher.
        negatives: (M,) scores of the other.
        rate: share of the negatives that may score higher.
    """
    ordered = negatives.double().sort(descending=True).values
    threshold = ordered[min(len(ordered) - 1, int(rate * len(ordered)))]
    return float((positives.double() > threshold).double().mean())


def detection(
    suspected: Tensor, poisoned: Tensor, scores: Tensor | None = None, *, covers: Tensor | None = None
) -> dict[str, float]:
    """Measure how well a detector tells poisoned rows from others.

    Args:
        suspected: (N,) bool, rows held for poisoned.
        poisoned: (N,) bool, rows that are; covers, which carry a trigger and keep their label, are not.
        scores: (N,) of suspicion, if there are such.
        covers: (N,) bool; None if there are none.

    Returns:
        `tpr`, the share of poisoned rows that are suspected, and `fpr`, that of the others; with covers, `untouched`,
        that of rows which are neither; with scores, `auroc` and `found_at`, the share that is found if the threshold
        lets `FALSE_ALARMS` of the others through. What has no rows to be a share of is left out.
    """
    found = {}
    if bool(poisoned.any()):
        found["tpr"] = suspected[poisoned].float().mean().item()
    if not bool(poisoned.all()):
        found["fpr"] = suspected[~poisoned].float().mean().item()
    if covers is not None and not bool((poisoned | covers).all()):
        found["untouched"] = suspected[~(poisoned | covers)].float().mean().item()
    if scores is not None and "tpr" in found and "fpr" in found:
        found["auroc"] = auroc(scores[poisoned], scores[~poisoned])
        found["found_at"] = found_at(scores[poisoned], scores[~poisoned])
    return found

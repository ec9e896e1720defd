"""AttentionMix (Zhu et al. 2023): mix images where a network looks, and their labels by how much of that is mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.models.features import feature_maps

Attention = Callable[[Tensor], Tensor]
"""Maps (N, C, H, W) images to (N, h, w), which is higher where more attention is paid, at any resolution."""


@dataclass(frozen=True, eq=False)
class Mixing:
    """How the images of a batch are mixed, each with another one.

    Args:
        partner: (N,) int64, place of the other one.
        attention: (N, H, W) in [0, 1].
        region: (N, H, W) bool, where it is mixed.
        own: (N,) share of an image's attention that lies in its region: W.
        taken: (N,) weight of the partner there: V / (W + V), with the share V of the partner's attention.
    """

    partner: Tensor
    attention: Tensor
    region: Tensor
    own: Tensor
    taken: Tensor

    @property
    def label_weights(self) -> Tensor:
        """Give the label weights (N, 3): 1 - W and W W / (W + V) of the own one, W V / (W + V) of the other."""
        return torch.stack([1 - self.own, self.own * (1 - self.taken), self.own * self.taken], 1)

    def of_images(self, images: Tensor) -> Tensor:
        """Mix the images (N, C, H, W)."""
        mixing = (self.region * self.taken[:, None, None])[:, None].to(images.dtype)
        return torch.lerp(images, images[self.partner], mixing)

    def of_labels(self, labels: Tensor) -> Tensor:
        """Mix weights of labels (N, classes)."""
        mixing = (self.own * self.taken)[:, None].to(labels.dtype)
        return torch.lerp(labels, labels[self.partner], mixing)


class AttentionMix(nn.Module):
    """Mix each image of a batch with another one in the region that it draws attention to, and mix their labels.

    It is called like torchvision's `MixUp` and `CutMix`: on a batch, in a training loop or as part of `collate_fn`.

    A map of attention A is brought to the image's size (nearest neighbor) and scaled to [0, 1]. M = [A >= threshold]
    is the region; W and V are the shares of the attention of the image and of its partner that lie in it. Then

        image = x (1 - M) + (W x + V y) M / (W + V)
        label = (1 - W + W W / (W + V)) label_x + (W V / (W + V)) label_y

    so that labels that sum to 1 still do. An image whose attention is the same everywhere stays as it is.

    Args:
        attention: of each image; `FeatureAttention` is that of a network, as published.
        threshold: attention from which on a place is mixed, above 0 and up to 1.
        num_classes: needed for labels that are indices.
        generator: of the partners; None draws from torch's own.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        threshold: float = 0.1,
        num_classes: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise ValueError(f"Expected `threshold` above 0 and up to 1, but got {threshold}.")
        self.attention = attention
        self.threshold = threshold
        self.num_classes = num_classes
        self.generator = generator

    @torch.no_grad()
    def forward(self, *batch: Any) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            batch: images (N, C, H, W) of a floating dtype, and labels: (N,) class indices, or (N, classes) weights.
                Two arguments, or one pair.

        Returns:
            Images of the same shape and dtype, and (N, classes) label weights.

        Raises:
            ValueError: no such pair, or a map of attention of another shape.
        """
        images, labels = _pair(batch)
        weights = _label_weights(labels, self.num_classes)
        plan = self.plan(images)
        return plan.of_images(images), plan.of_labels(weights)

    @torch.no_grad()
    def plan(self, images: Tensor) -> Mixing:
        """Decide how a batch is mixed: images (N, C, H, W) of a floating dtype.

        Raises:
            ValueError: a map of attention of another shape.
        """
        maps = _scaled(self.attention(images), images)
        region = maps >= self.threshold
        partner = torch.randperm(len(images), generator=self.generator).to(images.device)
        own, others = _share_inside(maps, region), _share_inside(maps[partner], region)
        taken = others / (own + others).clamp(min=torch.finfo(maps.dtype).tiny)
        return Mixing(partner, maps, region, own, taken)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"threshold={self.threshold}, num_classes={self.num_classes}"


class FeatureAttention:
    """Compute where a convolutional network looks: the sum of the squares of its last feature maps' channels.

    The network is used in the mode that it is in, without gradients.

    Args:
        model: on the device of the images that it will be given.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute the attention: (N, C, H, W), as the network takes it -> (N, h, w) float32, not negative.

        Raises:
            ValueError: a network without feature maps.
        """
        return feature_maps(self.model, images).float().square().sum(1)


def _pair(batch: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    found = batch[0] if len(batch) == 1 and isinstance(batch[0], (tuple, list)) else batch
    if len(found) != 2 or not all(isinstance(one, Tensor) for one in found):
        kinds = ", ".join(type(one).__name__ for one in found)
        raise ValueError(f"Expected images and labels of a batch, two tensors, but got {kinds or 'nothing'}.")
    images, labels = found
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"Expected (N, C, H, W) images of a floating dtype, but got {images.dtype} of shape "
            f"{tuple(images.shape)}. Convert them before (`v2.ToDtype(torch.float32, scale=True)`)."
        )
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise ValueError(
            f"Expected labels (N,) or (N, classes) of the {len(images)} images, but got shape {tuple(labels.shape)}."
        )
    return images, labels


def _label_weights(labels: Tensor, classes: int | None) -> Tensor:
    """Turn class indices into (N, classes) weights; weights stay as they are."""
    if labels.ndim == 1:
        if classes is None:
            raise ValueError("Expected `num_classes`, as the labels are class indices, but got none.")
        return F.one_hot(labels, classes).float()
    if classes is not None and labels.shape[1] != classes:
        raise ValueError(f"Expected label weights of {classes} classes (`num_classes`), but got {labels.shape[1]}.")
    return labels if labels.is_floating_point() else labels.float()


def _scaled(maps: Tensor, images: Tensor) -> Tensor:
    """Bring maps to the images' size and to [0, 1], each by its own range; one without a range becomes 0."""
    if maps.ndim != 3 or len(maps) != len(images):
        raise ValueError(
            f"Expected a map of attention (h, w) for each of the {len(images)} images, but got shape "
            f"{tuple(maps.shape)}."
        )
    sized = F.interpolate(maps[:, None].float(), images.shape[-2:], mode="nearest")[:, 0]
    low, high = sized.amin((1, 2), keepdim=True), sized.amax((1, 2), keepdim=True)
    return torch.where(high > low, (sized - low) / (high - low), 0)


def _share_inside(maps: Tensor, region: Tensor) -> Tensor:
    """Compute the share of each map that lies in a region: (N, H, W), (N, H, W) -> (N,)."""
    inside = (maps * region).sum((1, 2))
    return inside / maps.sum((1, 2)).clamp(min=1)  # a map has a 1 somewhere, or is 0 everywhere

"""Classifiers on a frozen network with public weights: all that two cores can train on photographs."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.data.mapped import parts_of
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.hub.backbones import Backbone, load_backbone

DEFAULT_BACKBONE = "efficientnet_lite0"
"""EfficientNet-Lite0, which the extra `features` installs; other names are those that `load_backbone` takes."""

_LEAST_SIDE = 96
"""Smaller images are enlarged to it: networks with public weights halve the side five times."""

_PIXELS_AT_ONCE = 2**17
"""Of one network call: two images of 224 pixels, as more do not fit a core's cache."""

_MOST_KNOWN = 20_000
"""Images whose features are remembered, 100 MB of them: more than a table on photographs looks at."""

_PENALTY = 1e-3
"""On the squared weights of the last layer, for features of unit variance."""

_ROUNDS = 100


class FrozenFeatures(nn.Module):
    """Describe images by a network that stays as it is.

    On a CPU each image is described once, and remembered until `_MOST_KNOWN` others came after it.

    Args:
        backbone: the network; its weights are not to be trained from here on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network.requires_grad_(False).to(memory_format=torch.channels_last)
        self.sha256 = backbone.sha256
        self.side = None if backbone.any_side else backbone.side
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self._known: dict[bytes, Tensor] = {}
        self.train(False)

    def __deepcopy__(self, memo: object) -> FrozenFeatures:
        return self  # nothing in it changes

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Describe (N, 3, H, W) images in [-1, 1]: (N, D), differentiable in images that require it."""
        if images.requires_grad or images.device.type != "cpu" or self._is_watched():
            return self._describe(images)
        names = [hashlib.blake2b(image.contiguous().numpy().data, digest_size=16).digest() for image in images]
        unknown = [row for row, name in enumerate(names) if name not in self._known]
        at_once = max(1, _PIXELS_AT_ONCE // images.shape[-2:].numel())
        with torch.no_grad():
            for start in range(0, len(unknown), at_once):
                rows = unknown[start : start + at_once]
                for row, own in zip(rows, self._describe(images[rows]).float(), strict=True):
                    self._known[names[row]] = own.clone()
        found = torch.stack([self._known[name] for name in names])
        for name in list(self._known)[: max(0, len(self._known) - _MOST_KNOWN)]:
            del self._known[name]
        return found

    def _is_watched(self) -> bool:
        """Tell whether somebody reads along within the network, and so has to see every image."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.network.modules())

    def _describe(self, images: Tensor) -> Tensor:
        side = self.side or max(_LEAST_SIDE, min(images.shape[-2:]))
        if side != min(images.shape[-2:]):
            images = F.interpolate(images, size=(side, side), mode="bicubic", antialias=True)
        with autocast(images.device):
            found: Tensor = self.network((images / 2 + 0.5 - self.mean) / self.std)
        return found.float()


class FrozenClassifier(nn.Module):
    """Classify images by a linear layer on the features of a frozen network.

    Args:
        features: of the network, which several classifiers may share.
        dimensions: of a feature.
        classes: how many scores it gives.
    """

    def __init__(self, features: FrozenFeatures, dimensions: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.last = nn.Linear(dimensions, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Score (N, 3, H, W) images in [-1, 1]: (N, classes)."""
        scores: Tensor = self.last(self.features(images))
        return scores


@lru_cache(maxsize=1)
def frozen_features(name: str) -> FrozenFeatures:
    """Load a network, the last one once: whoever uses it shares what it remembers.

    Args:
        name: `DEFAULT_BACKBONE`, or as `load_backbone` takes it, which says what is raised.
    """
    return FrozenFeatures(load_backbone(None if name == DEFAULT_BACKBONE else name))


def build_frozen(name: str, classes: int) -> FrozenClassifier:
    """Build an untrained classifier on the features of a network; see `frozen_features`."""
    features = frozen_features(name)
    device = features.mean.device
    dimensions = features(torch.zeros(1, 3, _LEAST_SIDE, _LEAST_SIDE, device=device)).shape[1]
    return FrozenClassifier(features, dimensions, classes)


def train_frozen(
    name: str, images: Tensor, labels: Tensor, *, classes: int, device: torch.device | str = "cpu"
) -> FrozenClassifier:
    """Train the last layer of a classifier by logistic regression; nothing in it is random.

    Args:
        name: of the network; see `frozen_features`.
        images: (N, 3, H, W) uint8, brought to the device in parts.
        labels: (N,) int64.
        classes: how many there are.
        device: where to train.
    """
    model = build_frozen(name, classes).to(device)
    given = torch.cat([model.features(normalize(images[part].to(device))) for part in parts_of(images)])
    center, spread = given.mean(0), given.std(0).clamp_min(1e-6)
    rows, wanted = (given - center) / spread, labels.to(device)
    last = nn.Linear(rows.shape[1], classes, device=device)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    optimizer = torch.optim.LBFGS(last.parameters(), max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = F.cross_entropy(last(rows), wanted) + _PENALTY * last.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.last.weight.copy_(last.weight / spread)
        model.last.bias.copy_(last.bias - model.last.weight @ center)
    return model.eval()

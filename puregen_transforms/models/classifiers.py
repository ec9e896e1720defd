"""Image classifiers, with a stem for the size of their images: victims of attacks, and what attackers train."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torchvision
from torch import Tensor, nn

SMALL_IMAGES = 64
"""Shorter side, in pixels, up to which networks begin without reducing the image."""


def build_classifier(name: str, classes: int, *, image_size: tuple[int, int] = (32, 32)) -> nn.Module:
    """Build an untrained network for images in [-1, 1] from 32 pixels on, in channels-last layout.

    Args:
        name: one of `CLASSIFIERS`.
        classes: how many scores it gives.
        image_size: height and width of what it is to learn. Images of more than 64 pixels are reduced at once, as
            published for photographs or, where a network is for small images, to about 32 pixels; otherwise their size
            decides nothing.

    Raises:
        ValueError: no such network.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"Expected a classifier out of {', '.join(CLASSIFIERS)}, but got {name!r}.")
    return CLASSIFIERS[name](classes, reduced=reduced_by(image_size)).to(memory_format=torch.channels_last)


def reduced_by(image_size: tuple[int, int]) -> int:
    """Say by which factor a network's first layer reduces images: 1 for small ones."""
    side = min(image_size)
    return 1 if side <= SMALL_IMAGES else side // 32


def small_classifier(classes: int, width: int = 32, *, reduced: int = 1) -> nn.Module:
    """Build a VGG-like network for 32-px images: seven convolutions, 1.2 million parameters at width 32.

    Args:
        classes: how many scores it gives.
        width: channels of the first convolution.
        reduced: its stride; it sees as much more.
    """

    def block(a: int, b: int, stride: int = 1, reach: int = 1) -> list[nn.Module]:
        convolution = nn.Conv2d(a, b, 2 * reach + 1, stride, reach, bias=False)
        return [convolution, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    w = width
    layers = [
        *block(3, w, reduced, reduced),
        *block(w, 2 * w, 2),
        *block(2 * w, 2 * w),
        *block(2 * w, 4 * w, 2),
        *block(4 * w, 4 * w),
    ]
    layers += [*block(4 * w, 8 * w, 2), *block(8 * w, 8 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * w, classes)).to(memory_format=torch.channels_last)


def resnet18(classes: int, *, reduced: int = 1) -> nn.Module:
    """Build torchvision's ResNet-18; for small images a 3x3 convolution and no pooling is its stem."""
    return _with_stem(torchvision.models.resnet18(num_classes=classes), reduced)


def resnet34(classes: int, *, reduced: int = 1) -> nn.Module:
    """Build torchvision's ResNet-34, with the same stem for small images."""
    return _with_stem(torchvision.models.resnet34(num_classes=classes), reduced)


def mobilenet_v2(classes: int, *, reduced: int = 1) -> nn.Module:
    """Build torchvision's MobileNetV2; it halves the side of small images three times, not five."""
    model = torchvision.models.mobilenet_v2(num_classes=classes)
    if reduced > 1:
        return model
    model.features[0][0].stride = (1, 1)
    model.features[2].conv[1][0].stride = (1, 1)
    return model


def densenet121(classes: int, *, reduced: int = 1) -> nn.Module:
    """Build torchvision's DenseNet-121; for small images with a 3x3 convolution alone before the blocks."""
    model = torchvision.models.densenet121(num_classes=classes)
    if reduced > 1:
        return model
    model.features.conv0 = _convolution(3, 64)
    for name in ("norm0", "relu0", "pool0"):
        setattr(model.features, name, nn.Identity())
    return model


def hlb(classes: int, widths: tuple[int, int, int] = (64, 256, 256), *, reduced: int = 1) -> nn.Module:
    """Build the fast network of PureGen's experiments, much as airbench94 (Jordan 2024); it trains in 15 epochs.

    See `HLBRecipe` for how. The first convolution is an ordinary one, without whitening, as released there; its
    stride is `reduced`.
    """
    first = nn.Conv2d(3, 24, 2 * reduced, reduced, bias=False)
    layers: list[nn.Module] = [first, _norm(24, 0.3), nn.GELU()]
    for inputs, outputs in zip((24, *widths), widths, strict=False):
        layers += [_dirac(inputs, outputs), nn.MaxPool2d(2), _norm(outputs, 0.3), nn.GELU()]
        layers += [_dirac(outputs, outputs), _norm(outputs, 0.4), nn.GELU()]
    layers += [nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled(1 / 9), nn.Linear(widths[-1], classes, bias=False)]
    return nn.Sequential(*layers)


class Scaled(nn.Module):
    """Features times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """Scale (N, D) features."""
        return features * self.factor


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "tiny": partial(small_classifier, width=8),
    "small": small_classifier,
    "hlb": hlb,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "mobilenet_v2": mobilenet_v2,
    "densenet121": densenet121,
}


def _with_stem(model: torchvision.models.ResNet, reduced: int) -> nn.Module:
    if reduced > 1:
        return model
    model.conv1, model.maxpool = _convolution(3, 64), nn.Identity()
    return model


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _dirac(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a convolution that passes its inputs on, as far as there are outputs for them."""
    layer = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
    nn.init.dirac_(layer.weight[:inputs])
    return layer


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    """Build a batch norm whose scale is not trained."""
    layer = nn.BatchNorm2d(channels, eps=1e-12, momentum=momentum)
    layer.weight.requires_grad_(False)
    return layer

"""Image classifiers, and where in them features are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn


def small_classifier(classes: int, width: int = 32) -> nn.Module:
    """A VGG-like network for 32-px images: seven convolutions, 1.2 million parameters at width 32."""

    def block(a: int, b: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    w = width
    layers = [*block(3, w), *block(w, 2 * w, 2), *block(2 * w, 2 * w), *block(2 * w, 4 * w, 2), *block(4 * w, 4 * w)]
    layers += [*block(4 * w, 8 * w, 2), *block(8 * w, 8 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8 * w, classes)).to(memory_format=torch.channels_last)


def resnet18(classes: int) -> nn.Module:
    """ResNet-18 of torchvision with the stem for small images: a 3x3 convolution, no pooling."""
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model.to(memory_format=torch.channels_last)


CLASSIFIERS: dict[str, Callable[[int], nn.Module]] = {
    "tiny": partial(small_classifier, width=8),
    "small": small_classifier,
    "resnet18": resnet18,
}


def build_classifier(name: str, classes: int) -> nn.Module:
    """An untrained network by its name.

    Raises:
        ValueError: no such network.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"Expected a classifier out of {', '.join(CLASSIFIERS)}, but got {name!r}.")
    return CLASSIFIERS[name](classes)


def head(model: nn.Module) -> nn.Linear:
    """The last linear layer, which turns features into scores."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def stages(model: nn.Module) -> list[nn.Module]:
    """What a network consists of from image to features: its blocks, or the activations of a plain sequence."""
    if isinstance(model, nn.Sequential):
        return [module for module in model if isinstance(module, nn.ReLU)]
    return [module for module in model.children() if isinstance(module, nn.Sequential)]


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer is given: (N, D)."""
    with recorded([head(model)], inputs=True) as found:
        model(images)
    return found[0]


@contextmanager
def recorded(modules: list[nn.Module], *, inputs: bool = False) -> Iterator[list[Tensor]]:
    """What modules give (or take) while a network runs, in the order in which they run."""
    found: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        found.append(given[0] if inputs else result)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def add_dropout(model: nn.Module, rate: float) -> None:
    """Drop channels after every stage, also once it is trained: each call is another draw of torch's generator."""
    for module in stages(model) if rate else []:
        module.register_forward_hook(lambda module, given, result: F.dropout2d(result, rate))

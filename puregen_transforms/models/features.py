"""The features of a classifier: its last layers, and what they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn


def head(model: nn.Module) -> nn.Linear:
    """Find the last linear layer, which turns features into scores."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def feature_layers(model: nn.Module) -> list[nn.Module]:
    """List the modules between image and features: a network's blocks, or the activations of a plain sequence."""
    if isinstance(model, nn.Sequential):
        return [module for module in model if isinstance(module, (nn.ReLU, nn.GELU))]
    parts: list[nn.Module] = [part for part in model.children() if isinstance(part, nn.Sequential)]
    parts = [part for part in parts if head(model) not in part.modules()]
    return list(parts[0].children()) if len(parts) == 1 else parts


def features(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the input of the last linear layer: (N, D)."""
    with recorded([head(model)], inputs=True) as found:
        model(images)
    return found[0]


def feature_maps(model: nn.Module, images: Tensor) -> Tensor:
    """Compute the last feature maps of a convolutional network, which it pools and turns into scores.

    They are the last thing that one of its modules gives with four dimensions and more than one place.

    Args:
        model: any; used in the mode that it is in.
        images: (N, 3, H, W), as it takes them.

    Returns:
        (N, channels, h, w).

    Raises:
        ValueError: there are none.
    """
    last: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], result: object) -> None:
        if isinstance(result, Tensor) and result.ndim == 4 and result.shape[-2:].numel() > 1:
            last[:] = [result]

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ValueError(
            f"Expected a convolutional network, with a module that gives feature maps (N, channels, h, w) of more than "
            f"one place, but none in {type(model).__name__} does for images of {images.shape[-1]}x{images.shape[-2]} "
            "pixels. Take another network, or larger images."
        )
    return last[0]


@contextmanager
def recorded(modules: list[nn.Module], *, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Record the outputs (or inputs) of modules while a network runs, in the order in which they run."""
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
    for module in feature_layers(model) if rate else []:
        module.register_forward_hook(lambda module, given, result: F.dropout2d(result, rate))

"""Batch norms as parts of the convolutions before them: fewer passes over the activations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

_SAME = 1e-3
"""Of the largest score, by which scores may differ for rounding alone."""


def fold_norms(network: nn.Module, example: Tensor) -> nn.Module:
    """Copy a network with its batch norms folded into the convolutions before them, to run it on many images.

    Results differ by rounding alone. Where that cannot be had, as in networks that use what a convolution gives twice,
    the network itself is returned.

    Args:
        network: in evaluation mode: (n, C, H, W) -> (n, D).
        example: (n, C, H, W), to see which norm follows which convolution, and that results are the same.
    """
    pairs = _pairs(network, example)
    if not pairs:
        return network
    try:
        folded = copy.deepcopy(network)
    except RuntimeError:  # it holds tensors that were computed from others, such as normalized weights
        return network
    for convolution, norm in pairs:
        layer, after = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        if layer is network.get_submodule(convolution) or after.running_mean is None:
            return network  # a network that is one in all its copies, or whose norms look at the batch
        folded.set_submodule(convolution, fuse_conv_bn_eval(layer, after))
        folded.set_submodule(norm, _what_follows(after))
    with torch.no_grad():
        expected = network(example)
        same = (folded(example) - expected).abs().max() <= _SAME * expected.abs().max()
    return folded if same else network


def _what_follows(norm: nn.BatchNorm2d) -> nn.Module:
    """Take what a norm does after normalizing; timm's have an activation."""
    parts = dict(norm.named_children())
    return nn.Sequential(parts["drop"], parts["act"]) if {"drop", "act"} <= set(parts) else nn.Identity()


class FoldedNorms(nn.Module):
    """A network in evaluation mode, with the same parameters and results; each convolution scales by its batch norm.

    PyTorch's second derivative of a batch norm is a chain of elementwise passes over the activations; here the norms
    cost products of weights alone, and gradients in all parameters of the network are as before.

    Args:
        model: in evaluation mode; its parameters are used, not copied.
        example: (1, 3, H, W), to see which norm follows which convolution.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.model = model
        self._pairs = _pairs(model, example)
        bare = copy.deepcopy(model)
        for convolution, norm in self._pairs:
            layer = bare.get_submodule(convolution)
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))  # type: ignore[arg-type]
            bare.set_submodule(norm, nn.Identity())
        self._bare = [bare]  # in a list, so that its parameters are not this module's

    def forward(self, images: Tensor) -> Tensor:
        """Run `model` with its folded weights."""
        values: dict[str, Tensor] = dict(self.model.named_parameters())
        for convolution, norm in self._pairs:
            statistics = self.model.get_submodule(norm)
            assert isinstance(statistics, nn.BatchNorm2d)
            mean, variance = statistics.running_mean, statistics.running_var
            assert mean is not None and variance is not None
            scale = values.pop(f"{norm}.weight") / (variance + statistics.eps).sqrt()
            shift = values.pop(f"{norm}.bias") - mean * scale
            bias = values.get(f"{convolution}.bias")
            values[f"{convolution}.weight"] = values[f"{convolution}.weight"] * scale[:, None, None, None]
            values[f"{convolution}.bias"] = shift if bias is None else shift + bias * scale
        return functional_call(self._bare[0], values, (images,))


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Name the convolutions, and the batch norms that act on their very results."""
    found: list[tuple[str, str]] = []
    results: dict[int, tuple[str, Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():

        def keep(module: nn.Module, given: tuple[Tensor, ...], result: Tensor, name: str = name) -> None:
            if isinstance(module, nn.Conv2d):
                results[id(result)] = (name, result)  # kept alive, so that no other result gets its id
            elif id(given[0]) in results:
                found.append((results[id(given[0])][0], name))

        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            hooks.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found

"""Read what a trained network makes of images, in one pass for all detectors that look at it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.features import head, recorded

KEPT_BYTES = 2**30
"""Size of what is kept for the next detector; the oldest goes first."""

_PIXELS_AT_ONCE = 2**17
"""Pixels of one network call: 128 images of 32x32."""

_KEPT: OrderedDict[str, Activations] = OrderedDict()


@dataclass(frozen=True, kw_only=True, eq=False)
class NormInputs:
    """What a BatchNorm layer is given, by image and channel: (N, channels) float32 each, on the CPU.

    Args:
        highest: over all places of the channel.
        mean: over the same.
        lowest: over the same.
        usual: (channels,) running mean of the layer.
        spread: (channels,) its running standard deviation.
        gradients: of the label's logit, averaged over the places; None if they were not asked for.
    """

    highest: Tensor
    mean: Tensor
    lowest: Tensor
    usual: Tensor
    spread: Tensor
    gradients: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Activations:
    """What a network makes of each image.

    Args:
        features: (N, D) float32 input of the last linear layer, on the CPU.
        logits: (N, classes) float32, on the CPU.
        norms: of every BatchNorm layer of the network, in the order in which they run.
    """

    features: Tensor
    logits: Tensor
    norms: tuple[NormInputs, ...]

    def __len__(self) -> int:
        return len(self.features)


def read_suspects(suspects: SuspectSet, *, gradients: bool = False) -> Activations:
    """Read what the suspects' network makes of them; with gradients, of the labels' logits.

    Raises:
        ValueError: no network or labels, or images that are not all there and of one size.
        FloatingPointError: the network gives a value that is not finite.
    """
    if suspects.network is None:
        raise ValueError("Expected a classifier that was trained on the set (`network`), but got none.")
    if gradients and suspects.labels is None:
        raise ValueError("Expected the class of each image (`labels`), but got none.")
    return read_activations(
        suspects.network,
        suspects.tensor(),
        labels=suspects.labels if gradients else None,
        device=suspects.device,
        progress=suspects.progress,
    )


def read_activations(
    network: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    device: torch.device,
    progress: Progress = silent,
) -> Activations:
    """Read features, logits and the inputs of BatchNorm layers, once for the same network and images.

    Args:
        network: on `device`; takes (n, 3, H, W) in [-1, 1], and runs as it does when it is tested.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64 whose logits are differentiated; of rows with a negative one, the first class's. None takes
            no gradients.
        device: where to work.
        progress: told what is being done.

    Raises:
        ValueError: no images, no linear layer, or a label beyond the network's classes.
        FloatingPointError: the network gives a value that is not finite.
    """
    if not len(images):
        raise ValueError("Expected at least one image, but got none.")
    if not any(isinstance(module, nn.Linear) for module in network.modules()):
        raise ValueError("Expected a network that ends in a linear layer, whose input are the features.")
    plain = _key(network, images)
    asked = plain if labels is None else _key(network, images, labels)
    # What was read with gradients serves without them, too.
    found = next(
        (_KEPT[key] for key in reversed(_KEPT) if key == asked or (labels is None and key[:64] == plain)), None
    )
    if found is None:
        found = _read(network, images, labels, device=device, progress=progress)
        _keep(asked, found)
    return found


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a network as it does when it is tested, and leave it in the mode in which it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """Cut (N, 3, H, W) images into parts for one network call each, always in the same way."""
    return images.split(max(1, _PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1])))


def _read(
    network: nn.Module, images: Tensor, labels: Tensor | None, *, device: torch.device, progress: Progress
) -> Activations:
    last = head(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    order: list[nn.BatchNorm2d] = []
    hooks = [norm.register_forward_hook(lambda module, given, result: order.append(module)) for norm in norms]
    parts: list[tuple[Tensor, Tensor, list[Tensor]]] = []
    done = 0
    try:
        with evaluating(network), torch.inference_mode(False), torch.set_grad_enabled(labels is not None):
            for part in batches(images):
                order.clear()
                progress("reading activations", done, len(images))
                own = None if labels is None else labels[done : done + len(part)].to(device)
                parts.append(_read_part(network, last, norms, normalize(part.to(device)), own))
                done += len(part)
    finally:
        for hook in hooks:
            hook.remove()
    progress("reading activations", done, len(images))
    features, logits = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    bad = (~(features.isfinite().all(1) & logits.isfinite().all(1))).nonzero().flatten().tolist()
    if bad:
        raise FloatingPointError(f"The network's features or scores of the images in rows {bad[:8]} are not finite.")
    return Activations(
        features=features,
        logits=logits,
        norms=tuple(
            _norm_inputs(norm, torch.cat([part[2][index] for part in parts])) for index, norm in enumerate(order)
        ),
    )


def _read_part(
    network: nn.Module, last: nn.Linear, norms: list[nn.BatchNorm2d], images: Tensor, labels: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Read features (n, D), logits (n, classes), and for each BatchNorm layer (n, 3 or 4, channels)."""
    if labels is not None:
        images = images.requires_grad_()  # so that there are gradients where all weights are frozen
    with recorded([last], inputs=True) as features, recorded(list(norms), inputs=True) as given:
        logits = network(images)
    gradients: tuple[Tensor, ...] = ()
    if labels is not None:
        if int(labels.max()) >= logits.shape[1]:
            raise ValueError(
                f"Expected labels of the network's {logits.shape[1]} classes, but got {int(labels.max())}. "
                "The network was trained on another set."
            )
        chosen = logits.gather(1, labels.clamp(min=0)[:, None]).sum()
        gradients = torch.autograd.grad(chosen, given) if given else ()
    return features[0].detach().float().cpu(), logits.detach().float().cpu(), _by_channel(given, gradients)


def _by_channel(given: list[Tensor], gradients: tuple[Tensor, ...]) -> list[Tensor]:
    """Describe (n, channels, H, W) inputs by channel: highest, mean, lowest, and the mean gradient if there is one."""
    found = []
    for index, value in enumerate(given):
        values = value.detach().float()
        rows = [values.amax((2, 3)), values.mean((2, 3)), values.amin((2, 3))]
        rows += [gradients[index].float().mean((2, 3))] if gradients else []
        found.append(torch.stack(rows, dim=1).cpu())
    return found


def _norm_inputs(norm: nn.BatchNorm2d, found: Tensor) -> NormInputs:
    channels = found.shape[2]
    usual = torch.zeros(channels) if norm.running_mean is None else norm.running_mean.detach().float().cpu().clone()
    variance = torch.ones(channels) if norm.running_var is None else norm.running_var.detach().float().cpu()
    return NormInputs(
        highest=found[:, 0],
        mean=found[:, 1],
        lowest=found[:, 2],
        usual=usual,
        spread=(variance + norm.eps).sqrt(),
        gradients=found[:, 3] if found.shape[1] > 3 else None,
    )


def _key(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> str:
    """Hash architecture, weights and images; labels come behind, so that the first 64 signs are the same with them."""
    sha = hashlib.sha256(repr(network).encode())
    for name, value in network.state_dict().items():
        sha.update(name.encode())
        sha.update(_bytes(value))
    sha.update(repr(tuple(images.shape)).encode())
    sha.update(_bytes(images))
    return sha.hexdigest() + ("" if labels is None else hashlib.sha256(_bytes(labels)).hexdigest())


def _bytes(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _keep(key: str, found: Activations) -> None:
    if _size(found) > KEPT_BYTES:
        return
    _KEPT[key] = found
    while sum(map(_size, _KEPT.values())) > KEPT_BYTES:
        _KEPT.popitem(last=False)


def _size(found: Activations) -> int:
    values = [found.features, found.logits]
    for norm in found.norms:
        values += [norm.highest, norm.mean, norm.lowest, *([] if norm.gradients is None else [norm.gradients])]
    return sum(value.numel() * value.element_size() for value in values)

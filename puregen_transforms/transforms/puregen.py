"""`PureGen`: the transform users hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from puregen_transforms import __version__
from puregen_transforms.functional.images import rounded, to_signed
from puregen_transforms.hub.load import Checkpoint, load_ebm, resolve_checkpoint
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.inference import FrozenEBM
from puregen_transforms.purifier.config import Recipe
from puregen_transforms.purifier.device import choose_device, choose_dtype, one_thread_if_forked, parse_device
from puregen_transforms.purifier.pipeline import Purifier, run_in_batches
from puregen_transforms.purifier.stages import LangevinStage
from puregen_transforms.transforms.formats import OpenImage
from puregen_transforms.transforms.samples import FoundImages, find_images, is_lazy

LARGEST_IMAGE = 2048 * 2048
"""Pixels of one image past which the network's activations would fill a common machine's memory."""

_OPTIONS = {
    "checkpoint": ("ebm", "naive", "reps", "filt", "adaptive"),
    "ebm_steps": ("ebm", "naive", "reps", "filt", "adaptive"),
    "ddpm_checkpoint": ("ddpm", "naive", "reps", "filt", "adaptive"),
    "ddpm_steps": ("ddpm", "naive", "reps", "filt", "adaptive"),
    "reps": ("reps",),
    "filter_fraction": ("filt",),
    "jpeg_quality": ("jpeg",),
}
"""Which methods use an option; giving it to another is an error."""


class PureGen(v2.Transform):  # type: ignore[misc] # torchvision has no types
    """Purify images: move each towards the natural ones by a short stochastic chain.

    Works on PIL images, uint8 and float [0, 1] tensors, `tv_tensors.Image` and uint8 arrays, single
    or batched, alone or among labels in tuples, lists, dicts and the rows and batches of
    `datasets`. What comes back has the type, shape, dtype, device and range of what went in,
    with pixels rounded to 8 bits; everything that is no image is the same object. Gray images are
    purified as RGB and turned back; alpha is kept.

    Nothing is loaded until the first call. An instance is cheap to construct and to pickle, and
    hashes the same in every process, so `datasets.map` finds its cache. An image's noise depends
    on the seed and its own pixels: never on batch, order, worker or process.

    Args:
        method: "ebm" runs Langevin steps on an energy network.
        checkpoint: of the energy network: a catalogue name, a Hub repo id or a local folder; None
            is the packaged default.
        ebm_steps: Langevin steps; None is the paper's 150 for training from scratch.
        dynamics: "paper" is the published constant noise.
        seed: makes results repeatable; None draws one from torch's global generator per call.
        columns: key(s) or position(s) of the images, where a sample holds more than one.
        device: where to run; None is a GPU if there is one. Images come back to their own device.
        dtype: arithmetic of the network in the chain: "auto", "float32", "bfloat16" or "float16".
        batch_size: images in one network call; None chooses by their size.
        revision: branch, tag or commit of a Hub checkpoint.
        cache_dir: where Hub downloads are kept; None is the Hub library's own place.

    Raises:
        ValueError: an option out of range, unknown, or not used by `method`.
    """

    def __init__(
        self,
        method: str = "ebm",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ddpm_checkpoint: str | os.PathLike[str] | None = None,
        ebm_steps: int | None = None,
        ddpm_steps: int | None = None,
        reps: int | None = None,
        filter_fraction: float | None = None,
        jpeg_quality: int | None = None,
        dynamics: str = "paper",
        seed: int | None = None,
        columns: str | int | Sequence[str | int] | None = None,
        device: str | torch.device | None = None,
        dtype: str = "auto",
        batch_size: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.recipe = Recipe(
            method=method,
            checkpoint=None if checkpoint is None else os.fspath(checkpoint),
            revision=revision,
            ebm_steps=ebm_steps,
            dynamics=dynamics,
            dtype=dtype,
            seed=seed,
            columns=(columns,) if isinstance(columns, (str, int)) else None if columns is None else tuple(columns),
        )
        _check_options(
            method,
            checkpoint=checkpoint,
            ebm_steps=ebm_steps,
            ddpm_checkpoint=ddpm_checkpoint,
            ddpm_steps=ddpm_steps,
            reps=reps,
            filter_fraction=filter_fraction,
            jpeg_quality=jpeg_quality,
        )
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"Expected `batch_size` to be a positive integer or None, but got {batch_size!r}.")
        self.device = None if device is None else parse_device(device)
        self.batch_size = batch_size
        self.cache_dir = None if cache_dir is None else os.fspath(cache_dir)

    def forward(self, *inputs: Any) -> Any:
        """Purify the images of a sample or a batch.

        Args:
            inputs: one sample, or its parts (`PureGen()(images, labels)`).

        Returns:
            The same structure, images purified; a tuple if several inputs were given.

        Raises:
            ValueError: no image, an ambiguous sample, or an image that cannot be purified.
            FloatingPointError: a chain stopped being finite.
        """
        seed = self.recipe.seed if self.recipe.seed is not None else _draw_seed()
        found = self._find(inputs)
        return found.put_back(
            _by_size(found.images, lambda batch: self._purifier(batch, sample_ids=content_ids(batch), seed=seed))
        )

    def energy(self, *inputs: Any) -> Tensor:
        """The network's raw energies of a sample's images, in float32 arithmetic.

        Args:
            inputs: as for a call.

        Returns:
            (N,) float32 on the CPU, in the order the images stand in; lower is more natural.
        """
        return torch.cat([part.cpu() for part in _by_size(self._find(inputs).images, self._energies)])

    @property
    def digest(self) -> str:
        """Hex name of the results: equal digests and equal images give equal results."""
        return self.recipe.digest(self._checkpoint.sha256)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready values; `from_dict` rebuilds it."""
        return self.recipe.to_dict()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PureGen:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return cls(**Recipe.from_dict(values).to_dict())

    def extra_repr(self) -> str:
        """The settings, in the words of the constructor."""
        return ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items() if value is not None)

    def __getstate__(self) -> dict[str, Any]:
        # No weights: workers load their own. The weights' hash and the versions are part of the
        # state because datasets names its caches by it.
        return {
            "recipe": self.to_dict(),
            "device": None if self.device is None else str(self.device),
            "batch_size": self.batch_size,
            "cache_dir": self.cache_dir,
            "digest": self.digest,
            "version": __version__,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        runtime = {name: state[name] for name in ("device", "batch_size", "cache_dir")}
        self.__init__(**state["recipe"], **runtime)  # type: ignore[misc]
        self._expected_digest = state["digest"]

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return resolve_checkpoint(self.recipe.checkpoint, revision=self.recipe.revision, cache_dir=self.cache_dir)

    @cached_property
    def _model(self) -> EBM:
        if getattr(self, "_expected_digest", self.digest) != self.digest:
            raise ValueError(
                f"The weights at {self._checkpoint.reference!r} are no longer those this PureGen was pickled with. "
                "Construct it anew to use the new ones."
            )
        # Weights made in inference mode could not take part in the chain's gradients, now or later.
        with torch.inference_mode(False):
            return load_ebm(self._checkpoint)

    @cached_property
    def _purifier(self) -> Purifier:
        device = choose_device(self.device)
        with torch.inference_mode(False):
            network = FrozenEBM(self._model, dtype=choose_dtype(self.recipe.dtype, device)).to(device)
        stage = LangevinStage(network, self.recipe.langevin, trained_size=self._model.config.image_size)
        return Purifier([stage], device=device, batch_size=self.batch_size)

    @cached_property
    def _energy_network(self) -> FrozenEBM:
        return FrozenEBM(self._model).to(choose_device(self.device))

    def _energies(self, images: Tensor) -> Tensor:
        def measure(batch: Tensor, _: Tensor) -> Tensor:
            with torch.no_grad():
                return self._energy_network(to_signed(batch))

        ids = torch.zeros(len(images), dtype=torch.int64)
        return run_in_batches(measure, images, ids, device=choose_device(self.device), batch_size=self.batch_size)

    def _find(self, inputs: tuple[Any, ...]) -> FoundImages:
        one_thread_if_forked()
        if not inputs:
            raise TypeError("Expected a sample to purify, but PureGen was called with nothing.")
        # datasets.map adds row indices and a rank after its batch where asked to; they are not part of the sample.
        sample = inputs[0] if len(inputs) == 1 or is_lazy(inputs[0]) else inputs
        found = find_images(sample, columns=self.recipe.columns)
        smallest = self._model.config.smallest_image
        for image in found.images:
            height, width = image.rgb.shape[-2:]
            if min(height, width) < smallest:
                raise ValueError(
                    f"Expected images of at least {smallest}x{smallest} pixels, but got {width}x{height}. "
                    "Resize them, or leave them out."
                )
            if height * width > LARGEST_IMAGE:
                raise ValueError(
                    f"Expected images of at most {LARGEST_IMAGE:,} pixels, but got {width}x{height}. "
                    "Resize them to the size you train on first, or cut them into tiles."
                )
        return found


PureGenTransform = PureGen


def content_ids(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N,) int64: a hash of each image's 8-bit pixels, the same for every form it comes in."""
    pixels = rounded(images).cpu().contiguous().numpy()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)


def _by_size(images: list[OpenImage], function: Any) -> list[Tensor]:
    """Call `function` once per size, kind and device of the images, and give each image its share."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, image in enumerate(images):
        key = (*image.rgb.shape[-2:], image.rgb.dtype, image.rgb.device)
        groups.setdefault(key, []).append(index)
    results: dict[int, Tensor] = {}
    for members in groups.values():
        batch = torch.cat([images[index].rgb for index in members])
        shares = function(batch).split([len(images[index].rgb) for index in members])
        results.update(zip(members, shares, strict=True))
    return [results[index] for index in range(len(images))]


def _check_options(method: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None and method not in _OPTIONS[name]:
            raise ValueError(f"Method {method!r} does not use `{name}`. Leave it out, or choose another method.")


def _draw_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))

"""`PureGen`: the transform users hold."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from puregen_transforms import __version__
from puregen_transforms._docs import argument_docs, with_argument_docs
from puregen_transforms.functional.images import rounded, to_signed
from puregen_transforms.hub.references import locate
from puregen_transforms.purifier.batches import default_batch_size, run_in_batches
from puregen_transforms.purifier.config import Solver, explains_unknown_options
from puregen_transforms.purifier.device import device_of_rank, one_thread_if_forked, parse_device
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.puregen_config import (
    CHECKPOINTS,
    DType,
    Dynamics,
    Method,
    PureGenConfig,
    Strength,
    checked_columns,
)
from puregen_transforms.transforms.by_size import call_by_size
from puregen_transforms.transforms.cache import CachedImages, ImageCache, purify_through
from puregen_transforms.transforms.content import content_ids
from puregen_transforms.transforms.fitting import batches_of, threshold_of
from puregen_transforms.transforms.formats import OpenImage, check_sizes
from puregen_transforms.transforms.networks import Networks
from puregen_transforms.transforms.samples import FoundImages, find_images, is_lazy, rank_in

_RUNTIME = ("device", "batch_size", "cache", "cache_dir")

_ENERGY_BATCH = 256
"""Samples whose energies `PureGen.fit` measures at once."""


class PureGen(v2.Transform):  # type: ignore[misc] # torchvision has no types
    """Purify images: move each towards the natural ones by a short stochastic chain.

    Works on PIL images, uint8 and float [0, 1] tensors, `tv_tensors.Image` and uint8 arrays, single
    or batched, alone or among labels in tuples, lists, dicts and the rows and batches of
    `datasets`. What comes back has the type, shape, dtype, device and range of what went in,
    with pixels rounded to 8 bits; everything that is no image is the same object. Gray images are
    purified as RGB and turned back; alpha is kept.

    Nothing is loaded until the first call. An instance is cheap to construct and to pickle, and
    hashes the same in every process, so `datasets.map` finds its cache. An image's noise depends
    on the seed and its own pixels: never on batch, order, worker or process. Without a seed, one is
    drawn from torch's global generator at every call.

    Args:
        options of `PureGenConfig`, as documented there
        device: where to run; None is the accelerator that torch reports (CUDA or ROCm, MPS, XPU, ...), else the CPU.
            Images come back to their own device.
        batch_size: images in one network call; None chooses by their size, the networks and the device.
        cache: a folder on a local disk where purified images are kept by what they were, so that each is purified
            once, by whatever worker and in whatever epoch or run comes first; several processes may share it. Without
            a seed, the first result stays. `ImageCache(folder, max_bytes=...)` sets how large it grows; then images of
            other settings are dropped, and further ones not kept. None keeps nothing.
        cache_dir: where Hub downloads are kept; None is the Hub library's own place.

    Raises:
        TypeError: an option that there is not.
        ValueError: an option out of range or not used by `method`, or a checkpoint of none of the forms above.
        FileNotFoundError: a checkpoint folder that is not there.
    """

    @explains_unknown_options
    def __init__(
        self,
        method: Method = "ebm",
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        ddpm_checkpoint: str | os.PathLike[str] | None = None,
        denoiser_checkpoint: str | os.PathLike[str] | None = None,
        ebm_steps: int | None = None,
        ddpm_steps: int | None = None,
        ddpm_solver: Solver | None = None,
        ddpm_inference_steps: int | None = None,
        despeckle_threshold: int | None = None,
        reps: int | None = None,
        filter_fraction: float | None = None,
        energy_threshold: float | None = None,
        strength: Strength | None = None,
        noise_level: float | None = None,
        jpeg_quality: int | None = None,
        dynamics: Dynamics | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        columns: str | int | Sequence[str | int] | None = None,
        device: str | torch.device | None = None,
        dtype: DType = "auto",
        batch_size: int | None = None,
        cache: str | os.PathLike[str] | ImageCache | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.config = PureGenConfig(
            method=method,
            checkpoint=None if checkpoint is None else os.fspath(checkpoint),
            ddpm_checkpoint=None if ddpm_checkpoint is None else os.fspath(ddpm_checkpoint),
            denoiser_checkpoint=None if denoiser_checkpoint is None else os.fspath(denoiser_checkpoint),
            ebm_steps=ebm_steps,
            dynamics=dynamics,
            temperature=temperature,
            ddpm_steps=ddpm_steps,
            ddpm_solver=ddpm_solver,
            ddpm_inference_steps=ddpm_inference_steps,
            despeckle_threshold=despeckle_threshold,
            reps=reps,
            filter_fraction=filter_fraction,
            energy_threshold=energy_threshold,
            strength=strength,
            noise_level=noise_level,
            jpeg_quality=jpeg_quality,
            dtype=dtype,
            seed=seed,
            columns=None if columns is None else checked_columns(columns),
        )
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"Expected `batch_size` to be a positive integer or None, but got {batch_size!r}.")
        # What is no checkpoint is said now; whether the Hub has it, when it is needed.
        for name, kind in CHECKPOINTS.items():
            if (named := getattr(self.config, name)) is not None:
                locate(named, (kind,))
        self._expected_digest: str | None = None
        self.device = None if device is None else parse_device(device)
        self.batch_size = batch_size
        self.cache = cache if cache is None or isinstance(cache, ImageCache) else ImageCache(cache)
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
        seed = self.config.seed if self.config.seed is not None else _draw_seed()
        found = self._find_images(inputs)
        purifier, kept = self.purifier, self._kept
        energies: list[Tensor] = []

        def purify(batch: Tensor) -> Tensor:
            purified = purifier(batch, sample_ids=content_ids(batch), seed=seed)
            if self.config.method == "adaptive":
                energies.append(self._in_batches(self._loaded.energy, purified))
            return purified

        through = purify if kept is None else lambda batch: purify_through(kept, batch, purify)
        purified = call_by_size(through, found.images, self._loaded.place)
        if energies:
            self._warn_of_resisting(torch.cat(energies))
        return found.put_back(purified)

    def energy(self, *inputs: Any) -> Tensor:
        """Measure the raw energies of a sample's images, in float32 arithmetic.

        Args:
            inputs: as for a call.

        Returns:
            (N,) float32 on the CPU, in the order the images stand in; lower is more natural.

        Raises:
            ValueError: the method has no energy network, or as for a call.
        """
        self._check_has_energy()
        return self._energies_of(self._find_images(inputs).images)

    def energy_map(self, *inputs: Any) -> Tensor:
        """Measure where in a sample's images the energy sits, in float32 arithmetic.

        Noise-like perturbations stand out; a patch of a few flat squares does not, and ordinary texture is high, too.

        Args:
            inputs: as for a call, but all images of one size.

        Returns:
            (N, h, w) float32 on the CPU: the energy of each cell of 4x4 pixels, so that h is H // 4 with the packaged
            network. The mean over an image is its `energy`, but for rounding.

        Raises:
            ValueError: the method has no energy network, images of several sizes, or as for a call.
        """
        self._check_has_energy()
        images = self._find_images(inputs).images
        if len(sizes := {tuple(image.rgb.shape[-2:]) for image in images}) > 1:
            raise ValueError(
                f"Expected images of one size, whose maps have one shape, but got {len(sizes)}. Call it for each size."
            )
        return self._measured(self._loaded.energy.map, images)

    def warm_up(self) -> None:
        """Load the weights and run each network once, so that what cannot work fails here.

        Raises:
            ValueError: a checkpoint that cannot be used, or a device that this machine does not have.
            RuntimeError, AssertionError, NotImplementedError: from torch, for a device that does not work.
        """
        self._loaded.run_once()

    def suspicious(self, *inputs: Any) -> Tensor:
        """Tell which images of a sample reach the energy threshold: after purifying, which have resisted.

        Args:
            inputs: as for a call.

        Returns:
            (N,) bool on the CPU.

        Raises:
            ValueError: there is no threshold, or as for a call.
        """
        if self.config.energy_threshold is None:
            raise ValueError("There is no energy threshold yet. Call `.fit(dataset)`, or give `energy_threshold=`.")
        return self.energy(*inputs) >= self.config.energy_threshold

    def fit(self, dataset: Any) -> PureGen:
        """Set the energy threshold of "filt" and "adaptive" from a whole data set.

        The threshold is put midway between the lowest energy of the share `filter_fraction` with the highest
        energies, and the next below.

        Args:
            dataset: a `datasets.Dataset`, a torch data set or any other iterable of samples, or images in one
                array or tensor (N, C, H, W).

        Returns:
            This transform.

        Raises:
            ValueError: the method has no threshold, the data set has no image, or as for a call.
        """
        if not self.config.uses_threshold:
            raise ValueError(f"Method {self.config.method!r} has no energy threshold to fit.")
        found = (
            [image for sample in batch for image in self._find_images((sample,)).images]
            for batch in batches_of(dataset, _ENERGY_BATCH)
        )
        parts = [self._energies_of(images) for images in found if images]
        if not parts:
            raise ValueError("Expected a data set with images, but it is empty.")
        assert self.config.filter_fraction is not None
        threshold = threshold_of(torch.cat(parts), self.config.filter_fraction)
        self.config = self._loaded.config = replace(self.config, energy_threshold=threshold)
        self._expected_digest = None
        self.__dict__.pop("purifier", None)
        self.__dict__.pop("_kept", None)
        return self

    @property
    def digest(self) -> str:
        """Hex name of the results: equal digests and equal images give equal results."""
        return self.config.digest(self.weights)

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of the weights of each network that is used."""
        return dict(self._networks.weights)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON-ready values; `from_dict` rebuilds from them."""
        return self.config.to_dict()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PureGen:
        """Rebuild from `to_dict`; an unknown key is an error."""
        return cls(**PureGenConfig.from_dict(values).to_dict())

    def extra_repr(self) -> str:
        """Write the settings in the words of the constructor."""
        return ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items() if value is not None)

    def __getstate__(self) -> dict[str, Any]:
        # No weights: workers load their own. The weights' hash and the versions are part of the
        # state because datasets names its caches by it.
        return {
            "options": self.to_dict(),
            **self.runtime,
            "device": None if self.device is None else str(self.device),
            "digest": self.digest,
            "version": __version__,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        runtime = {name: state[name] for name in _RUNTIME}
        self.__init__(**state["options"], **runtime)  # type: ignore[misc]
        self._expected_digest = state["digest"]

    @cached_property
    def _networks(self) -> Networks:
        return Networks(self.config, device=self.device, cache_dir=self.cache_dir)

    @cached_property
    def _kept(self) -> CachedImages | None:
        return None if self.cache is None else CachedImages(self.cache, self.digest)

    @property
    def runtime(self) -> dict[str, Any]:
        """Options that say where to run and what to keep, but do not change the images."""
        return {name: getattr(self, name) for name in _RUNTIME}

    @cached_property
    def _loaded(self) -> Networks:
        """The networks, once it is known that they are those this transform was made with."""
        if self._expected_digest not in (None, self.digest):
            raise ValueError(
                "The weights are no longer those this PureGen was pickled with. Construct it anew to use the new ones."
            )
        return self._networks

    @cached_property
    def purifier(self) -> Purifier:
        """The stages below this transform. Called with your own sample ids, it takes the noise from them."""
        return Purifier(self._loaded.stages(), device=self._loaded.place, batch_size=self.batch_size)

    def _check_has_energy(self) -> None:
        if not self.config.uses_ebm:
            raise ValueError(
                f"Method {self.config.method!r} has no energy network. Measure energies with PureGen('ebm')."
            )

    def _energies_of(self, images: list[OpenImage]) -> Tensor:
        return self._measured(self._loaded.energy, images)

    def _measured(self, measure: Callable[[Tensor], Tensor], images: list[OpenImage]) -> Tensor:
        parts = call_by_size(lambda batch: self._in_batches(measure, batch), images, self._loaded.place)
        return torch.cat([part.cpu() for part in parts])

    def _in_batches(self, measure: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        def measured(batch: Tensor, _: Tensor) -> Tensor:
            with torch.no_grad():
                return measure(to_signed(rounded(batch)))

        ids = torch.zeros(len(images), dtype=torch.int64)
        place, pixels = self._loaded.place, images.shape[-2] * images.shape[-1]
        size = self.batch_size or default_batch_size(pixels * self._loaded.energy.bytes_per_pixel, place)
        return run_in_batches(measured, images, ids, device=place, batch_size=size)

    def _warn_of_resisting(self, energies: Tensor) -> None:
        assert self.config.energy_threshold is not None
        resisting = int((energies >= self.config.energy_threshold).sum())
        if resisting:
            warnings.warn(
                f"{resisting} of {len(energies)} images are still suspicious after all that method 'adaptive' does. "
                "Find them with `.suspicious(images)`, and look at them or leave them out.",
                UserWarning,
                stacklevel=5,
            )

    def _find_images(self, inputs: tuple[Any, ...]) -> FoundImages:
        one_thread_if_forked()
        if not inputs:
            raise TypeError("Expected a sample to purify, but PureGen was called with nothing.")
        # datasets.map adds row indices and a rank after its batch where asked to; they are not part of the sample.
        sample = inputs[0] if len(inputs) == 1 or is_lazy(inputs[0]) else inputs
        self._take_device_of_rank(rank_in(inputs))
        found = find_images(sample, columns=self.config.columns)
        check_sizes(found.images, self._loaded.smallest_image, self._loaded.largest_image)
        return found

    def _take_device_of_rank(self, rank: int | None) -> None:
        """Take the accelerator of a rank, unless one is given or taken already."""
        if rank is not None and self.device is None and "_networks" not in vars(self):
            self.device = device_of_rank(rank)


PureGen.__doc__ = with_argument_docs(
    PureGen.__doc__ or "", "options of `PureGenConfig`, as documented there", argument_docs(PureGenConfig)
)
PureGenTransform = PureGen


def _draw_seed() -> int:
    return int(torch.randint(2**63 - 1, ()))

"""The networks of a `PureGen`: found, loaded and put on a device when they are first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch

from puregen_transforms._limits import LARGEST_IMAGE, LARGEST_PHOTOGRAPH
from puregen_transforms.hub.ddpm import DDPMCheckpoint, alpha_bars, load_unet, resolve_ddpm
from puregen_transforms.hub.denoiser import DenoiserCheckpoint, load_denoiser, resolve_denoiser
from puregen_transforms.hub.ebm import EBMCheckpoint, load_ebm, resolve_ebm
from puregen_transforms.models.denoiser_inference import InvariantDenoiser
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import InvariantEBM
from puregen_transforms.models.unet_inference import InvariantUNet
from puregen_transforms.purifier.config import DiffusionConfig
from puregen_transforms.purifier.device import choose_device, choose_dtype
from puregen_transforms.purifier.puregen_config import PureGenConfig
from puregen_transforms.purifier.stages import (
    DenoiserStage,
    DespeckleStage,
    DiffusionStage,
    FilterStage,
    JPEGStage,
    LangevinStage,
    Stage,
)

_STRONGER = 2
"""Factor on the diffusion steps of "adaptive" for an image that the first round has not repaired."""


@dataclass
class Networks:
    """Load the networks of a `PureGen` when they are needed, and build its stages of them.

    Args:
        config: says which networks there are.
        device: where to run; None is the accelerator that torch reports, else the CPU.
        cache_dir: of Hub downloads.
    """

    config: PureGenConfig
    device: torch.device | None = None
    cache_dir: str | None = None

    @cached_property
    def place(self) -> torch.device:
        """The device in use."""
        return choose_device(self.device)

    @cached_property
    def ebm_checkpoint(self) -> EBMCheckpoint:
        """The energy network's files."""
        return resolve_ebm(self.config.checkpoint, cache_dir=self.cache_dir)

    @cached_property
    def ddpm_checkpoint(self) -> DDPMCheckpoint:
        """The noise predictor's files."""
        return resolve_ddpm(self.config.ddpm_checkpoint, cache_dir=self.cache_dir)

    @cached_property
    def denoiser_checkpoint(self) -> DenoiserCheckpoint:
        """The denoiser's files."""
        return resolve_denoiser(self.config.denoiser_checkpoint, cache_dir=self.cache_dir)

    @property
    def weights(self) -> dict[str, str]:
        """Sha256 of each network's weights, by the network's kind."""
        found = {}
        if self.config.uses_ebm:
            found["ebm"] = self.ebm_checkpoint.sha256
        if self.config.uses_ddpm:
            found["ddpm"] = self.ddpm_checkpoint.sha256
        if self.config.uses_denoiser:
            found["denoiser"] = self.denoiser_checkpoint.sha256
        return found

    @cached_property
    def ebm(self) -> EBM:
        """The energy network as it is stored."""
        # Weights made in inference mode could not take part in the chain's gradients, now or later.
        with torch.inference_mode(False):
            return load_ebm(self.ebm_checkpoint)

    @cached_property
    def energy(self) -> InvariantEBM:
        """The energy network for measuring: float32."""
        with torch.inference_mode(False):
            return InvariantEBM(self.ebm, device=self.place)

    @cached_property
    def smallest_image(self) -> int:
        """The shortest side, in pixels, that every network takes."""
        sides = [1]
        if self.config.uses_ebm:
            sides.append(self.ebm.config.smallest_image)
        if self.config.uses_ddpm:
            # Mirroring at the edges adds up to half a multiple on either side, and needs one pixel more than it adds.
            sides.append(self._noise_predictor.side_multiple // 2 + 1)
        return max(sides)

    @property
    def largest_image(self) -> int:
        """Pixels of the largest image that is taken: more, where stages can work on it in parts."""
        return LARGEST_IMAGE if self.config.uses_ebm or self.config.uses_ddpm else LARGEST_PHOTOGRAPH

    def stages(self) -> list[Stage]:
        """Build the stages, in order.

        Raises:
            ValueError: a method that needs an energy threshold has none.
        """
        config = self.config
        if config.uses_threshold and config.energy_threshold is None:
            raise ValueError(
                f"Method {config.method!r} acts on an image by its energy, but has no threshold yet. Call "
                "`.fit(dataset)` with the data set first, or give `energy_threshold=`."
            )
        match config.method:
            case "ebm":
                return [self._langevin]
            case "ddpm":
                return [self._diffusion()]
            case "eclipse":
                threshold = config.despeckle_threshold
                assert threshold is not None
                despeckle = [DespeckleStage(threshold)] if threshold < 255 else []
                return [*despeckle, self._diffusion()]
            case "naive":
                return [self._langevin, self._diffusion()]
            case "reps":
                assert config.reps is not None
                return list(chain.from_iterable([self._langevin, self._diffusion()] for _ in range(config.reps)))
            case "filt":
                both = (self._langevin, self._diffusion()) if config.ebm_steps else (self._diffusion(),)
                return [self._filtered(*both)]
            case "adaptive":
                return [
                    self._filtered(self._langevin),
                    self._filtered(self._diffusion()),
                    self._filtered(self._diffusion(_STRONGER)),
                ]
            case "onestep":
                assert config.noise_level is not None
                return [DenoiserStage(self._denoiser, config.noise_level / 127.5)]
            case _:
                assert config.jpeg_quality is not None
                return [JPEGStage(config.jpeg_quality)]

    def run_once(self) -> None:
        """Call each network once, on a gray image."""
        image = torch.zeros(1, 3, 32, 32, device=self.place)
        with torch.no_grad():
            if self.config.uses_ebm:
                self._langevin.energy(image)
            if self.config.uses_ddpm:
                self._noise_predictor(image, 0)
            if self.config.uses_denoiser:
                self._denoiser(image, 0.1)

    @cached_property
    def _langevin(self) -> LangevinStage:
        assert self.config.langevin is not None
        with torch.inference_mode(False):
            network = InvariantEBM(self.ebm, dtype=choose_dtype(self.config.dtype, self.place), device=self.place)
        return LangevinStage(network, self.config.langevin, trained_size=self.ebm.config.image_size)

    @cached_property
    def _noise_predictor(self) -> InvariantUNet:
        with torch.inference_mode(False):
            unet = load_unet(self.ddpm_checkpoint)
            return InvariantUNet(unet, dtype=choose_dtype(self.config.dtype, self.place), device=self.place)

    @cached_property
    def _denoiser(self) -> InvariantDenoiser:
        with torch.inference_mode(False):
            network = load_denoiser(self.denoiser_checkpoint)
            return InvariantDenoiser(network, dtype=choose_dtype(self.config.dtype, self.place), device=self.place)

    def _diffusion(self, times: int = 1) -> DiffusionStage:
        config = self.config.diffusion
        assert config is not None
        bars = alpha_bars(self.ddpm_checkpoint)
        steps = min(times * config.steps, len(bars))
        config = DiffusionConfig(steps=steps, solver=config.solver, inference_steps=config.inference_steps)
        return DiffusionStage(self._noise_predictor, config, bars, self._noise_predictor.side_multiple)

    def _filtered(self, *stages: Stage) -> FilterStage:
        assert self.config.energy_threshold is not None
        return FilterStage(stages, self.energy, self.config.energy_threshold)

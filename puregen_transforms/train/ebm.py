"""Contrastive training of the energy network (Algorithm 2 of the PureGen paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from puregen_transforms.functional.images import to_signed
from puregen_transforms.functional.langevin import langevin
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.saving import save_ebm
from puregen_transforms.train.batches import check_squares, draw_images
from puregen_transforms.train.config import EBMTraining
from puregen_transforms.train.health import TrainingDivergedError
from puregen_transforms.train.trainer import Trainer

_FARTHEST_CHAIN = 0.5
"""Root mean square move of a healthy update's chains stays below 0.1; past this they have escaped the images."""


@dataclass(frozen=True, kw_only=True)
class EBMStatistics:
    """The statistics of one update; energies in units of the temperature, distances in image units."""

    update: int
    positive_energy: float
    negative_energy: float
    gradient_norm: float
    chain_distance: float
    """Root mean square move of the drawn chains over this update's Langevin steps."""
    rate: float

    def __str__(self) -> str:
        return (
            f"energy: data {self.positive_energy:.1f}, chains {self.negative_energy:.1f}; "
            f"chain move {self.chain_distance:.3f}; gradient {self.gradient_norm:.0f}"
        )


class EBMTrainer(Trainer[Tensor]):
    """The contrastive training of an energy network.

    Args:
        images: (N, 3, S, S) uint8, the training set.
        training: settings.
        network: shape of the energy network; `image_size` must be the images' S.
        accelerator: where to train, and in how many processes. Its mixed precision should be off:
            energies differ by less than bfloat16 resolves, so the loss is float32.
        dtype: arithmetic of the sampling chains.
    """

    kind = "ebm"
    spike = 100.0

    def __init__(
        self,
        images: Tensor,
        training: EBMTraining,
        network: EBMConfig,
        accelerator: Accelerator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        accelerator = accelerator or Accelerator()
        self.training, self.dtype = training, dtype
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            ebm = EBM(network).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(ebm.parameters(), lr=training.learning_rate)
        super().__init__(check_squares(images, network.image_size), training, ebm, optimizer, accelerator)
        self.config = network
        self.bank = self._draw_noisy_data(training.bank_size, self._generator(-1))

    def step(self) -> EBMStatistics:
        """Update the chains and the weights once.

        Raises:
            TrainingDivergedError: the energies stopped being finite, the chains have left the images, or
                the gradients have blown up.
        """
        training, generator = self.training, self._generator(self.update)
        rate = training.rate(self.update)
        data = self._draw_noisy_data(training.batch_size, generator)
        positives = self._share(data).to(self.device)
        try:
            negatives, moved = self._draw_chains(data, generator)
        except FloatingPointError as error:
            raise TrainingDivergedError(f"{_ENERGIES_LOST % self.update} ({error})") from error

        both = torch.cat([positives, negatives]).contiguous(memory_format=torch.channels_last)
        positive, negative = (self.model(both) / training.temperature).chunk(2)
        loss = positive.mean() - negative.mean()
        positive_mean, negative_mean, square = self._mean(positive.mean(), negative.mean(), moved)
        distance = math.sqrt(square)
        if not math.isfinite(positive_mean - negative_mean):
            raise TrainingDivergedError(_ENERGIES_LOST % self.update)
        if distance > _FARTHEST_CHAIN:
            raise TrainingDivergedError(
                f"The chains moved {distance:.2f} (root mean square) in the Langevin steps of update {self.update}, so "
                "they have left the images: the energy is too steep. Resume from the last saved state with a lower "
                "learning rate, or start again with more Langevin steps."
            )
        norm = self._take_step(loss, rate)
        if self._gradient_rises(norm):
            raise TrainingDivergedError(
                f"The gradients at update {self.update} have been over 100 times their usual size for a while "
                f"(norm {norm:.3g}). Start again with a lower learning rate, or with more Langevin steps."
            )
        return EBMStatistics(
            update=self.update,
            positive_energy=positive_mean,
            negative_energy=negative_mean,
            gradient_norm=norm,
            chain_distance=distance,
            rate=rate,
        )

    def network_settings(self) -> dict[str, Any]:
        """Return the shape of the network, JSON-ready."""
        return self.config.to_dict()

    def samples(self) -> Tensor:
        """Draw images above, chains of the bank below: (2, up to 16, 3, S, S)."""
        count = min(16, self.training.bank_size, len(self.images))
        return torch.stack([to_signed(self.images[:count]), self.bank[:count]])

    def export(self, folder: Path) -> None:
        """Write the result in the official layout."""
        save_ebm(cast(EBM, self.result), folder)

    def state(self) -> dict[str, Tensor]:
        """Collect everything that changes during training, as tensors; `update` is kept beside it."""
        return {**super().state(), "bank": self.bank}

    def restore(self, state: Mapping[str, Tensor], update: int) -> None:
        """Continue from the `state` saved after `update`; the next steps equal an unbroken run's."""
        if state["bank"].shape != self.bank.shape:
            raise ValueError(f"Expected a bank of {len(self.bank)} chains, but the saved one has {len(state['bank'])}.")
        super().restore(state, update)
        self.bank = state["bank"].clone()

    def _draw_noisy_data(self, count: int, generator: torch.Generator) -> Tensor:
        images = draw_images(self.images, count, generator)
        return images.add_(torch.randn(images.shape, generator=generator), alpha=self.training.data_noise)

    def _draw_chains(self, data: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Run drawn chains of the bank for an update's Langevin steps, and put them back.

        Chains that restart from data do so from the update's own positive images: what these have by chance, such as
        their mean color, then is no difference between positives and negatives, which the energy would learn.

        Returns:
            This process's share of the chains, and their mean square move.
        """
        training = self.training
        drawn = torch.randperm(training.bank_size, generator=generator)[: training.batch_size]
        restart = torch.rand(training.batch_size, 1, 1, 1, generator=generator) < training.rejuvenation
        starts = self._share(torch.where(restart, data, self.bank[drawn])).to(self.device)
        on_device = self._device_generator(self.update)

        def noise(step: int, like: Tensor) -> Tensor:
            whole = (training.batch_size, *like.shape[1:])
            return self._share(torch.randn(whole, generator=on_device, device=like.device))

        ends = langevin(
            starts,
            FrozenEBM(cast(EBM, self.network), dtype=self.dtype),
            steps=training.langevin_steps,
            step_size=training.step_size,
            temperature=training.temperature,
            noise=noise,
        )
        self.bank[drawn] = self.accelerator.gather(ends.contiguous()).cpu()
        return ends, F.mse_loss(ends, starts)


_ENERGIES_LOST = (
    "The energies are not finite at update %d. Resume from the last saved state with a lower learning rate, "
    "or start again with more Langevin steps."
)

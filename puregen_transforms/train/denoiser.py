"""Training of the denoiser: images with Gaussian noise of many levels, and the noise as what is to be found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from puregen_transforms.models.config import DenoiserConfig
from puregen_transforms.models.denoiser import Denoiser
from puregen_transforms.models.saving import save_denoiser
from puregen_transforms.train.config import DenoiserTraining
from puregen_transforms.train.patches import Patches
from puregen_transforms.train.trainer import NoiseStatistics, Trainer

_SHOWN, _SHOWN_LEVELS = 12, (10.0, 30.0, 60.0)


class DenoiserTrainer(Trainer[Patches]):
    """The training of a denoiser.

    Updates take their patches from the sets in turn; the loss is the mean absolute error of the noise, in units of its
    level, which is drawn for each patch between the lowest and the highest, evenly on a logarithmic scale.

    Args:
        sets: each of (3, H, W) uint8 images.
        training: settings.
        network: shape of the denoiser.
        accelerator: where to train, in how many processes and in which precision.
    """

    kind = "denoiser"

    def __init__(
        self,
        sets: Sequence[Sequence[Tensor]],
        training: DenoiserTraining,
        network: DenoiserConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.training, self.config = training, network
        multiple = network.side_multiple
        patches = Patches(sets, side=training.patch_size, multiple=multiple)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            denoiser = Denoiser(network).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(denoiser.parameters(), lr=training.learning_rate, weight_decay=0.0)
        super().__init__(patches, training, denoiser, optimizer, accelerator or Accelerator())

    def step(self) -> NoiseStatistics:
        """Update the weights once.

        Raises:
            TrainingDivergedError: the loss stopped being finite, or the gradients have blown up.
        """
        training, generator = self.training, self._generator(self.update)
        rate = training.rate(self.update)
        count = self._batch_size(self.images.side_of(self.update))
        data = self.images.draw(self.update, count, generator)
        low, high = (math.log(level / 127.5) for level in (training.lowest_noise, training.highest_noise))
        levels = (low + (high - low) * torch.rand(count, generator=generator)).exp()
        noise = torch.randn(data.shape, generator=self._device_generator(self.update), device=self.device)
        images, levels, noise = (self._share(part).to(self.device) for part in (data, levels, noise))

        noisy = (images + levels.view(-1, 1, 1, 1) * noise).contiguous(memory_format=torch.channels_last)
        loss = (self.model(noisy, levels).float() - noise).abs().mean()
        return self._descend(loss, rate, largest_gradient=training.largest_gradient)

    def network_settings(self) -> dict[str, Any]:
        """Return the shape of the network, JSON-ready."""
        return self.config.to_dict()

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Draw patches of the first set: as they are, then noisy and restored at three levels, (7, 12, 3, S, S)."""
        generator = torch.Generator().manual_seed(self.training.seed)
        data = self.images.draw(0, _SHOWN, generator)
        rows = [data]
        for level in _SHOWN_LEVELS:
            levels = torch.full((len(data),), level / 127.5)
            noisy = data + levels[0] * torch.randn(data.shape, generator=generator)
            found = self.result(noisy.to(self.device), levels.to(self.device)).float().cpu()
            rows += [noisy, noisy - levels[0] * found]
        return torch.stack(rows)

    def export(self, folder: Path) -> None:
        """Write the result as `config.json` and `denoiser.safetensors`."""
        assert isinstance(self.result, Denoiser)
        save_denoiser(self.result, folder)

    def _batch_size(self, side: int) -> int:
        """Take as many patches as have the pixels of a batch of whole ones, in whole shares for each process."""
        processes = self.accelerator.num_processes
        return self.training.batch_size * self.training.patch_size**2 // side**2 // processes * processes

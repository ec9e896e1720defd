"""Training of the noise predictor: the truncated DDPM of the PureGen paper (section 3.3)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from puregen_transforms.functional.diffusion import (
    add_noise,
    alpha_bars_of,
    beta_schedule,
    restore,
)
from puregen_transforms.functional.images import to_signed
from puregen_transforms.models.config import UNetConfig
from puregen_transforms.models.saving import save_ddpm
from puregen_transforms.models.unet import build_unet
from puregen_transforms.models.unet_inference import FrozenUNet
from puregen_transforms.train.batches import check_squares, draw_images
from puregen_transforms.train.config import DDPMTraining
from puregen_transforms.train.sparse import sparse_rows
from puregen_transforms.train.trainer import NoiseStatistics, Trainer

_SAMPLE_STEPS = 75
_SAMPLE_CALLS = 15


class DDPMTrainer(Trainer[Tensor]):
    """The training of a noise predictor.

    Args:
        images: (N, 3, S, S) uint8, the training set.
        training: settings.
        network: shape of the UNet; `image_size` must be the images' S.
        accelerator: where to train, in how many processes and in which precision.
        labels: (N,) int64, of which a sparse set takes the same share each; None draws it from all images alike.
    """

    kind = "ddpm"

    def __init__(
        self,
        images: Tensor,
        training: DDPMTraining,
        network: UNetConfig,
        accelerator: Accelerator | None = None,
        *,
        labels: Tensor | None = None,
    ) -> None:
        accelerator = accelerator or Accelerator()
        self.training, self.config = training, network
        if training.sparse is not None:
            images = images[sparse_rows(len(images), training.sparse, seed=training.seed, labels=labels)]
        if training.copies:
            images = images.repeat(training.copies + 1, 1, 1, 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            unet = build_unet(network).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=training.learning_rate)
        super().__init__(check_squares(images, network.image_size), training, unet, optimizer, accelerator)
        self.alpha_bars = alpha_bars_of(beta_schedule()).to(self.device)

    def step(self) -> NoiseStatistics:
        """Update the weights once.

        Raises:
            TrainingDivergedError: the loss stopped being finite, or the gradients have blown up.
        """
        training, generator = self.training, self._generator(self.update)
        rate = training.rate(self.update)
        data = draw_images(self.images, training.batch_size, generator)
        timesteps = torch.randint(training.trained_steps, (training.batch_size,), generator=generator)
        noise = torch.randn(data.shape, generator=self._device_generator(self.update), device=self.device)
        images, timesteps, noise = (self._share(t).to(self.device) for t in (data, timesteps, noise))

        noised = add_noise(images, noise, self.alpha_bars[timesteps]).contiguous(memory_format=torch.channels_last)
        predicted = self.model(noised, timesteps).sample
        loss = F.mse_loss(predicted.float(), noise)
        return self._descend(loss, rate, largest_gradient=training.largest_gradient)

    def network_settings(self) -> dict[str, Any]:
        """Return the shape of the network, JSON-ready."""
        return asdict(self.config)

    def samples(self) -> Tensor:
        """Draw images above, then noised to step 75, then restored: (3, 12, 3, S, S)."""
        data = to_signed(self.images[:12])
        generator = torch.Generator().manual_seed(self.training.seed)
        steps = min(_SAMPLE_STEPS, self.training.trained_steps)
        noise = torch.randn(data.shape, generator=generator)
        restored = restore(
            data.to(self.device),
            FrozenUNet(self.result),
            steps=steps,
            alpha_bars=self.alpha_bars,
            noise=lambda step, like: noise.to(like.device),
            solver="ddim",
            inference_steps=min(_SAMPLE_CALLS, steps),
        )
        noised = add_noise(data, noise, self.alpha_bars[steps - 1].cpu())
        return torch.stack([data, noised, restored.cpu()])

    def export(self, folder: Path) -> None:
        """Write the result in the layout of a diffusers pipeline: `unet/` and `scheduler/`."""
        save_ddpm(self.result, folder, dtype=torch.float32)

"""Contrastive training of the energy network (Algorithm 2 of the PureGen paper)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.functional.langevin import langevin
from puregen_transforms.models.ebm import EBM, EBMConfig
from puregen_transforms.models.inference import FrozenEBM


@dataclass(frozen=True, kw_only=True)
class EBMTraining:
    """Settings of one training run; the defaults are the published ones, on one small device.

    Args:
        updates: optimizer steps (the paper: 150,000).
        batch_size: positive, and as many negative, images in an update (published: 16 a device x 8).
        langevin_steps: chain length of an update (published: 100).
        step_size: of the chain, in image units.
        temperature: of the chain and the loss.
        data_noise: standard deviation added to real images, in image units.
        bank_size: persistent chains (published: 1,250 a device x 8), started from noisy data.
        rejuvenation: share of the drawn chains that restart from data at each update.
        learning_rate: of Adam.
        milestones: shares of `updates` after which the rate falls.
        rate_factors: the rate's factor from each milestone on (published: x0.1 at 1/3, 5/8, 5/6).
        seed: of the initial weights, data order, noise and bank.
    """

    updates: int = 150_000
    batch_size: int = 16
    langevin_steps: int = 100
    step_size: float = 1.25e-2
    temperature: float = 1e-4
    data_noise: float = 1.5e-2
    bank_size: int = 10_000
    rejuvenation: float = 0.05
    learning_rate: float = 1e-4
    milestones: tuple[float, ...] = (1 / 3, 5 / 8, 5 / 6)
    rate_factors: tuple[float, ...] = (0.1, 0.01, 0.001)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "langevin_steps", "bank_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` to be 1 or more, but got {getattr(self, name)}.")
        for name in ("step_size", "temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected `{name}` to be above 0, but got {getattr(self, name)}.")
        if self.bank_size < self.batch_size:
            raise ValueError(
                f"Expected `bank_size` to be at least `batch_size`, but got {self.bank_size} < {self.batch_size}."
            )
        if not 0 <= self.rejuvenation <= 1:
            raise ValueError(f"Expected `rejuvenation` in [0, 1], but got {self.rejuvenation}.")
        if len(self.milestones) != len(self.rate_factors) or sorted(self.milestones) != list(self.milestones):
            raise ValueError("Expected `milestones` in rising order, each with one of `rate_factors`.")

    def rate(self, update: int) -> float:
        """Learning rate of an update."""
        passed = [
            factor
            for milestone, factor in zip(self.milestones, self.rate_factors, strict=True)
            if update >= milestone * self.updates
        ]
        return self.learning_rate * (passed[-1] if passed else 1.0)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record of every setting."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EBMTraining:
        """Inverse of `to_dict`; a key that no field has is an error."""
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


@dataclass(frozen=True, kw_only=True)
class EBMStatistics:
    """What one update did; energies in units of the temperature, distances in image units."""

    update: int
    positive_energy: float
    negative_energy: float
    gradient_norm: float
    chain_distance: float
    """Root mean square move of the drawn chains over this update's Langevin steps."""
    rate: float


class EBMTrainer:
    """One training run: call `step` until `done`.

    Every random draw of an update comes from a generator seeded by (seed, update), so the tensors
    of `state` and the update number are all that an exact resume needs.

    Args:
        images: (N, 3, S, S) uint8, the training set.
        training: settings.
        network: shape of the energy network; `image_size` must be the images' S.
        device: where to train.
        dtype: arithmetic of the sampling chains; the loss is always float32.
    """

    def __init__(
        self,
        images: Tensor,
        training: EBMTraining,
        network: EBMConfig,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = network.image_size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"Expected training images of dtype uint8 and shape (N, 3, {size}, {size}), "
                f"but got {images.dtype} {tuple(images.shape)}."
            )
        self.images, self.training, self.device, self.dtype = images, training, torch.device(device), dtype
        self.update = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            self.model = EBM(network).to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=training.learning_rate)
        generator = self._generator(-1)
        self.bank = self._draw_data(training.bank_size, generator)

    @property
    def done(self) -> bool:
        """Whether all updates have run."""
        return self.update >= self.training.updates

    def step(self) -> EBMStatistics:
        """One update of the chains and the weights.

        Raises:
            FloatingPointError: the chains or the loss stopped being finite.
        """
        training, generator = self.training, self._generator(self.update)
        rate = training.rate(self.update)
        positives = self._draw_data(training.batch_size, generator).to(self.device)
        negatives, distance = self._draw_chains(generator)

        both = torch.cat([positives, negatives]).contiguous(memory_format=torch.channels_last)
        positive, negative = (self.model(both) / training.temperature).chunk(2)
        loss = positive.mean() - negative.mean()
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"The loss is not finite at update {self.update}. Resume from an earlier state with a lower "
                "learning rate, or more Langevin steps."
            )
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.update += 1
        return EBMStatistics(
            update=self.update,
            positive_energy=float(positive.detach().mean()),
            negative_energy=float(negative.detach().mean()),
            gradient_norm=float(norm),
            chain_distance=distance,
            rate=rate,
        )

    def state(self) -> dict[str, Tensor]:
        """Everything that changes during training, as tensors; `update` is kept beside it."""
        moments = {
            f"adam.{name}.{moment}": value
            for (name, _), slot in zip(
                self.model.named_parameters(), self.optimizer.state_dict()["state"].values(), strict=False
            )
            for moment, value in slot.items()
        }
        weights = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        return {**weights, **moments, "bank": self.bank}

    def restore(self, state: Mapping[str, Tensor], update: int) -> None:
        """Continue from the `state` saved after `update`; the next steps equal an unbroken run's."""
        if state["bank"].shape != self.bank.shape:
            raise ValueError(f"Expected a bank of {len(self.bank)} chains, but the saved one has {len(state['bank'])}.")
        self.model.load_state_dict({name: state[f"model.{name}"] for name in self.model.state_dict()})
        slots = {
            index: {key: state[f"adam.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, (name, _) in enumerate(self.model.named_parameters())
            if f"adam.{name}.step" in state
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.bank = state["bank"].clone()
        self.update = update

    def _generator(self, update: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.training.seed << 32) + update + 1)

    def _draw_data(self, count: int, generator: torch.Generator) -> Tensor:
        """Noisy, randomly mirrored training images in [-1, 1]."""
        index = torch.randint(len(self.images), (count,), generator=generator)
        images = self.images[index].float().div_(127.5).sub_(1)
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
        return images.add_(torch.randn(images.shape, generator=generator), alpha=self.training.data_noise)

    def _draw_chains(self, generator: torch.Generator) -> tuple[Tensor, float]:
        """Run drawn chains of the bank for an update's Langevin steps, and put them back."""
        training = self.training
        drawn = torch.randperm(training.bank_size, generator=generator)[: training.batch_size]
        restart = torch.rand(training.batch_size, 1, 1, 1, generator=generator) < training.rejuvenation
        starts = torch.where(restart, self._draw_data(training.batch_size, generator), self.bank[drawn])
        starts = starts.to(self.device)

        def noise(step: int, like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like.device)

        ends = langevin(
            starts,
            FrozenEBM(self.model, dtype=self.dtype),
            steps=training.langevin_steps,
            step_size=training.step_size,
            temperature=training.temperature,
            noise=noise,
        )
        self.bank[drawn] = ends.cpu()
        return ends, float(F.mse_loss(ends, starts).sqrt())

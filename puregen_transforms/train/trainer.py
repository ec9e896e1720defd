"""The common part of the training of generators and denoisers: random draws, weight average, state, processes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from puregen_transforms.train.health import SpikeWatch, TrainingDivergedError

_ON_DEVICE = 1 << 62

ImagesT = TypeVar("ImagesT", bound=Sized)
"""How the images of the training set are held."""


class Statistics(Protocol):
    """The statistics of one update."""

    @property
    def update(self) -> int:
        """Number of updates that have run."""


class Training(Protocol):
    """Settings of a run."""

    @property
    def updates(self) -> int:
        """Optimizer steps."""

    @property
    def batch_size(self) -> int:
        """Images in an update, over all processes."""

    @property
    def ema_decay(self) -> float:
        """Decay of the weight average; 0 keeps none."""

    @property
    def seed(self) -> int:
        """The seed of everything random."""

    def to_dict(self) -> dict[str, Any]:
        """Return every setting, JSON-ready."""


@dataclass(frozen=True, kw_only=True)
class NoiseStatistics:
    """The statistics of one update of a network that predicts noise."""

    update: int
    loss: float
    """Of the predicted noise, in units of its level: for a mean square 1 is no prediction at all, for a mean distance
    0.8."""
    gradient_norm: float
    rate: float

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}; gradient {self.gradient_norm:.2f}"


class Trainer(ABC, Generic[ImagesT]):
    """One training run: call `step` until `done`.

    Every random draw of an update comes from a generator seeded by (seed, update), and each process
    takes its share of the same draws. So the tensors of `state` and the update number are all that
    an exact resume needs, and the number of processes changes nothing but rounding.

    Args:
        images: the training set.
        training: settings.
        network: with fresh weights.
        optimizer: of the network.
        accelerator: where to train, in how many processes and in which precision.
    """

    kind: ClassVar[str]
    spike: ClassVar[float] = 20.0
    """How many times its usual size a gradient is when training goes astray."""

    def __init__(
        self,
        images: ImagesT,
        training: Training,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
    ) -> None:
        if training.batch_size % accelerator.num_processes:
            raise ValueError(
                f"Expected a `batch_size` that the {accelerator.num_processes} processes can share, "
                f"but got {training.batch_size}."
            )
        self.images, self.accelerator, self.device = images, accelerator, accelerator.device
        self._settings = training
        self._initial: str | None = None
        self.update = 0
        self._gradient_rises = SpikeWatch(self.spike)
        self.model, self.optimizer = accelerator.prepare(network, optimizer)
        self.network: nn.Module = accelerator.unwrap_model(self.model)
        averaging = _moving_average(training.ema_decay)
        self.average = AveragedModel(self.network, avg_fn=averaging) if training.ema_decay else None

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self._settings.updates

    @property
    def done(self) -> bool:
        """Whether all updates have run."""
        return self.update >= self.updates

    @property
    def result(self) -> nn.Module:
        """The network whose weights are the run's result: the average, if one is kept."""
        return self.average.module if self.average is not None else self.network

    def start_from(self, weights: Mapping[str, Tensor], name: str) -> None:
        """Start from trained weights instead of fresh ones; call it before anything else.

        Args:
            weights: state dict of the network.
            name: of the weights, for the record; a resumed run must give the same.
        """
        self.network.load_state_dict(weights)
        self._initial = name

    @abstractmethod
    def step(self) -> Statistics:
        """Update the network once."""

    def settings(self) -> dict[str, Any]:
        """Return everything that a resumed run must have in common with the first, JSON-ready."""
        return {
            "kind": self.kind,
            "initial": self._initial,
            "training": self._settings.to_dict(),
            "network": self.network_settings(),
        }

    @abstractmethod
    def network_settings(self) -> dict[str, Any]:
        """Return the shape of the network, JSON-ready."""

    @abstractmethod
    def samples(self) -> Tensor:
        """Draw a picture of the state: (rows, columns, 3, S, S) in [-1, 1]."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the result as a checkpoint in its official layout."""

    def state(self) -> dict[str, Tensor]:
        """Collect everything that changes during training, as tensors; `update` is kept beside it."""
        slots = self.optimizer.state_dict()["state"]
        moments = {
            f"adam.{name}.{moment}": value
            for index, (name, _) in enumerate(self.network.named_parameters())
            for moment, value in slots.get(index, {}).items()
        }
        weights = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        averages = {f"ema.{name}": value for name, value in self.average.state_dict().items()} if self.average else {}
        return {**weights, **averages, **moments}

    def restore(self, state: Mapping[str, Tensor], update: int) -> None:
        """Continue from the `state` saved after `update`; the next steps equal an unbroken run's."""
        self.network.load_state_dict(_without_prefix(state, "model."))
        if self.average is not None:
            self.average.load_state_dict(_without_prefix(state, "ema."))
        slots = {
            index: {key: state[f"adam.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, (name, _) in enumerate(self.network.named_parameters())
            if f"adam.{name}.step" in state
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.update = update

    def _descend(self, loss: Tensor, rate: float, *, largest_gradient: float) -> NoiseStatistics:
        """Descend along the loss of predicted noise, which is never to explode.

        Raises:
            TrainingDivergedError: the loss stopped being finite, or the gradients have blown up.
        """
        (mean_loss,) = self._mean(loss)
        if not math.isfinite(mean_loss):
            raise TrainingDivergedError(
                f"The loss is not finite at update {self.update}. Resume from the last saved state with a lower "
                "learning rate, or in float32."
            )
        norm = self._take_step(loss, rate, largest_gradient=largest_gradient)
        if self._gradient_rises(norm):
            raise TrainingDivergedError(
                f"The gradients at update {self.update} have been over {self.spike:g} times their usual size for a "
                f"while (norm {norm:.3g}, loss {mean_loss:.3g}). Start again with a lower learning rate or a longer "
                "warm-up."
            )
        return NoiseStatistics(update=self.update, loss=mean_loss, gradient_norm=norm, rate=rate)

    def _take_step(self, loss: Tensor, rate: float, *, largest_gradient: float | None = None) -> float:
        """Descend along the loss, and return the gradient's norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest_gradient or float("inf"))
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.update += 1
        return float(norm)

    def _generator(self, update: int) -> torch.Generator:
        """Make the generator of the draws that every process makes alike, on the CPU."""
        return torch.Generator().manual_seed((self._settings.seed << 32) + update + 1)

    def _device_generator(self, update: int) -> torch.Generator:
        """Make the generator of draws of many values, on the device."""
        seed = (self._settings.seed << 32) + update + 1 + _ON_DEVICE
        return torch.Generator(self.device).manual_seed(seed)

    def _share(self, whole: Tensor) -> Tensor:
        """Take this process's part of a batch that every process has drawn alike."""
        size = len(whole) // self.accelerator.num_processes
        return whole[self.accelerator.process_index * size :][:size]

    def _mean(self, *values: Tensor) -> list[float]:
        """Average values over the processes."""
        means: Tensor = self.accelerator.reduce(torch.stack([value.detach().float() for value in values]), "mean")
        return [float(mean) for mean in means]


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Make an exponential average that is short at first: the fresh weights must not linger in it."""

    def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return averaged.lerp(current, 1 - min(decay, (1 + int(updates)) / (10 + int(updates))))

    return average


def _without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

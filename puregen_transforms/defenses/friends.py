"""FrieNDs (Liu et al. 2022): noise that a network does not mind, and random noise, on every training image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.hooks import TrainingHooks

NOISES = ("bernoulli", "gaussian")


@dataclass(frozen=True, kw_only=True)
class Friends(Hooked):
    """Add friendly noise, which hardly changes the network's predictions, and random noise to every training image.

    Settings as in PureGen's experiments; lengths in units of 1/255. In the released code the rate of the noise's
    optimizer would fall in two steps, but its schedule is never stepped; here there is none.

    Args:
        noise: the random noise: "bernoulli" (plus or minus `strength`) or "gaussian" (of that deviation).
        strength: of the random noise.
        bound: of the friendly noise.
        start: epochs with the random noise alone, after which the friendly one is made; training must be longer.
        iterations: of its optimization.
        learning_rate: of SGD with Nesterov momentum, for images in [0, 1].
        growth: weight of its mean square against the network's change of mind.
    """

    noise: str = "bernoulli"
    strength: float = 16.0
    bound: float = 16.0
    start: int = 5
    iterations: int = 20
    learning_rate: float = 100.0
    growth: float = 16.0

    def __post_init__(self) -> None:
        if self.noise not in NOISES:
            raise ValueError(f"Expected a noise out of {', '.join(NOISES)}, but got {self.noise!r}.")
        if self.start < 0:
            raise ValueError(f"Expected `start` of 0 epochs or more, but got {self.start}.")

    def hooks(self, seed: int) -> FriendlyNoise:
        """Make the hooks of one training; the seed is that of the friendly noise's start."""
        return FriendlyNoise(self, seed)


class FriendlyNoise(TrainingHooks):
    """Add the noises, as `Friends` says."""

    def __init__(self, config: Friends, seed: int) -> None:
        self.config = config
        self.seed = seed
        self._friendly: Tensor | None = None

    def begin(self, epochs: int) -> None:
        """Forget the noise of an earlier training."""
        if epochs <= self.config.start:
            raise ValueError(
                f"Expected a training of more than {self.config.start} epochs, after which FrieNDs makes its friendly "
                f"noise, but got {epochs}: there would be the random noise alone. Train longer, or lower `start`."
            )
        self._friendly = None

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Make the friendly noise when it is time; all rows are learned."""
        if epoch == self.config.start:
            generator = torch.Generator().manual_seed(self.seed)
            parts = [optimize_noise(model, part, self.config, generator) for part in images.split(128)]
            self._friendly = torch.cat(parts)
        return torch.arange(len(images))

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Add both noises to a batch."""
        if self.config.noise == "bernoulli":
            drawn = torch.randint(0, 2, images.shape, generator=generator) * 2.0 - 1.0
        else:
            drawn = torch.randn(images.shape, generator=generator)
        changed = images + self.config.strength / 127.5 * drawn.to(images.device)
        if self._friendly is not None:
            changed = changed + 2 * self._friendly[rows.to(self._friendly.device)].to(images.device)
        return changed.contiguous(memory_format=torch.channels_last)

    def state(self) -> dict[str, Tensor]:
        """Give the friendly noise, once there is one."""
        return {} if self._friendly is None else {"friendly": self._friendly}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the friendly noise back."""
        self._friendly = state.get("friendly")


def optimize_noise(model: nn.Module, images: Tensor, config: Friends, generator: torch.Generator) -> Tensor:
    """Make noise as large as the network's predictions allow (equation 7): (n, 3, H, W) for images in [0, 1].

    Args:
        model: whose predictions are to stay.
        images: (n, 3, H, W) uint8.
        config: settings.
        generator: of the start.
    """
    model.eval()
    bound, start = config.bound / 255, normalize(images)
    noise = (torch.rand(start.shape, generator=generator) * 2 - 1).mul(8 / 255).to(images.device).requires_grad_()
    optimizer = torch.optim.SGD([noise], lr=config.learning_rate, momentum=0.9, nesterov=True)
    with torch.no_grad(), autocast(images.device):
        before = F.log_softmax(model(start).float(), 1)
    for _ in range(config.iterations):
        bounded = noise.clamp(-bound, bound)
        with autocast(images.device):
            scores = model((start + 2 * bounded).clamp(-1, 1))
        unlike = F.kl_div(F.log_softmax(scores.float(), 1), before, reduction="batchmean", log_target=True)
        (noise.grad,) = torch.autograd.grad(unlike - config.growth * bounded.square().mean(), noise)
        optimizer.step()
    return noise.detach().clamp(-bound, bound)

"""FrieNDs (Liu et al. 2022): noise that a network does not mind, and random noise, on every training image."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize

NOISES = ("bernoulli", "gaussian")


@dataclass(kw_only=True)
class FriendsDefense:
    """A `TrainingDefense`. Settings as in PureGen's experiments; lengths in units of 1/255.

    In the released code the rate of the noise's optimizer would fall in two steps, but its schedule is never stepped;
    here there is none.

    Args:
        seed: of the noise's start.
        noise: the random noise: "bernoulli" (plus or minus `strength`) or "gaussian" (of that deviation).
        strength: of the random noise.
        bound: of the friendly noise.
        start: epochs with the random noise alone, after which it is made; training must be longer.
        iterations: of its optimization.
        learning_rate: of SGD with Nesterov momentum, for images in [0, 1].
        growth: weight of its mean square against the network's change of mind.
    """

    seed: int = 0
    noise: str = "bernoulli"
    strength: float = 16.0
    bound: float = 16.0
    start: int = 5
    iterations: int = 20
    learning_rate: float = 100.0
    growth: float = 16.0
    _friendly: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.noise not in NOISES:
            raise ValueError(f"Expected a noise out of {', '.join(NOISES)}, but got {self.noise!r}.")
        if self.start < 0:
            raise ValueError(f"Expected `start` of 0 epochs or more, but got {self.start}.")

    def begin(self, epochs: int) -> None:
        """See `TrainingDefense`."""
        if epochs <= self.start:
            raise ValueError(
                f"Expected a training of more than {self.start} epochs, after which FrieNDs makes its friendly noise, "
                f"but got {epochs}: there would be the random noise alone. Train longer, or lower `start`."
            )
        self._friendly = None

    def rows(self, epoch: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """All of them; makes the friendly noise when it is time."""
        if epoch == self.start:
            generator = torch.Generator().manual_seed(self.seed)
            parts = [self._optimized(model, part, generator) for part in images.split(128)]
            self._friendly = torch.cat(parts)
        return torch.arange(len(images))

    def change(self, images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Add both noises; see `TrainingDefense`."""
        if self.noise == "bernoulli":
            drawn = torch.randint(0, 2, images.shape, generator=generator) * 2.0 - 1.0
        else:
            drawn = torch.randn(images.shape, generator=generator)
        changed = images + self.strength / 127.5 * drawn.to(images.device)
        if self._friendly is not None:
            changed = changed + 2 * self._friendly[rows.to(self._friendly.device)]
        return changed.contiguous(memory_format=torch.channels_last)

    def _optimized(self, model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        """Equation (7): as large as the network's predictions allow, (n, 3, H, W) for images in [0, 1]."""
        model.eval()
        bound, start = self.bound / 255, normalize(images)
        noise = (torch.rand(start.shape, generator=generator) * 2 - 1).mul(8 / 255).to(images.device).requires_grad_()
        optimizer = torch.optim.SGD([noise], lr=self.learning_rate, momentum=0.9, nesterov=True)
        with torch.no_grad(), autocast(images.device):
            before = F.log_softmax(model(start).float(), 1)
        for _ in range(self.iterations):
            bounded = noise.clamp(-bound, bound)
            with autocast(images.device):
                scores = model((start + 2 * bounded).clamp(-1, 1))
            unlike = F.kl_div(F.log_softmax(scores.float(), 1), before, reduction="batchmean", log_target=True)
            (noise.grad,) = torch.autograd.grad(unlike - self.growth * bounded.square().mean(), noise)
            optimizer.step()
        return noise.detach().clamp(-bound, bound)

"""The Victim: a network that learns what is suspicious, and by that gets surer of poison than of anything else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.batches import shuffled_batches
from puregen_transforms.train.checkpoint import load_network_state, network_state
from puregen_transforms.train.data_parallel import DataParallel

_AT_ONCE = 500


class Victim:
    """Learns images as they are, without augmentation, by Adam.

    Args:
        model: untrained, on the device of the images.
        batch: images a step.
        generator: of their order.
        parallel: the processes that share each step; None is a single one.
    """

    def __init__(
        self, model: nn.Module, *, batch: int, generator: torch.Generator, parallel: DataParallel | None = None
    ) -> None:
        self.model = model
        self.batch = batch
        self.generator = generator
        self.parallel = parallel or DataParallel()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=5e-4)

    def learn(self, images: Tensor, labels: Tensor, rows: Tensor) -> float:
        """Pass once over some rows; give the mean loss, 0 where there are less than two.

        Args:
            images: (N, 3, H, W) uint8, the set.
            labels: (N,) int64.
            rows: (n,) int64.
        """
        if len(rows) < 2:
            return 0.0
        self.model.train()
        losses = []
        for whole in shuffled_batches(rows, self.batch, self.generator):
            chosen = self.parallel.part_of(whole)
            with autocast(images.device):
                scores = self.model(normalize(images[chosen]))
            loss = F.cross_entropy(scores.float(), labels[chosen]) * self.parallel.weight_of(chosen, whole)
            self.optimizer.zero_grad()
            loss.backward()
            self.parallel.average_gradients(self.model)
            self.optimizer.step()
            losses.append(loss.detach())
        self.parallel.average_buffers(self.model)
        return self.parallel.mean(float(torch.stack(losses).mean()))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Compute what it makes of images, in evaluation mode: (n, 3, H, W) uint8 -> (n, classes) float32."""
        self.model.eval()
        found = []
        for part in images.split(_AT_ONCE):
            with autocast(images.device):
                found.append(self.model(normalize(part)).float())
        return torch.cat(found)

    def state(self) -> dict[str, Tensor]:
        """Collect all that its training is made of."""
        return network_state(self.model, self.optimizer)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        load_network_state(self.model, self.optimizer, state)

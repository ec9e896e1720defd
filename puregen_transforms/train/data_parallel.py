"""Share the batches of one training among processes, each of which holds the whole set and the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


class DataParallel:
    """Lets each process learn its part of every batch, and keeps their networks alike.

    All processes draw the same batches; gradients are averaged, so that a step is one of the whole batch. Batch norms
    see a process's own part of it, as is usual.

    Args:
        accelerator: of these processes; None is a single one.
    """

    def __init__(self, accelerator: Accelerator | None = None) -> None:
        self.accelerator = accelerator if accelerator is not None and accelerator.num_processes > 1 else None
        self.count = 1 if self.accelerator is None else self.accelerator.num_processes
        self.rank = 0 if self.accelerator is None else self.accelerator.process_index

    @property
    def is_first(self) -> bool:
        """Whether this process does what is to be done once."""
        return self.rank == 0

    def copy_first(self, model: nn.Module) -> None:
        """Give a network the weights that it has in the first process."""
        if self.accelerator is not None:
            from accelerate.utils import broadcast

            for value in model.state_dict().values():
                value.copy_(broadcast(value.clone()))

    def part_of(self, rows: Tensor) -> Tensor:
        """Take this process's part of a batch; one with less than two rows for each is learned whole by all."""
        return rows[self.rank :: self.count] if self._is_shared(len(rows)) else rows

    def weight_of(self, part: Tensor, rows: Tensor) -> float:
        """Give the factor on the mean loss of a part, with which the processes' losses average to that of the batch."""
        return len(part) * self.count / len(rows) if self._is_shared(len(rows)) else 1.0

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients over the processes."""
        self._average([value.grad for value in model.parameters() if value.grad is not None])

    def average_buffers(self, model: nn.Module) -> None:
        """Average what batch norms know of the images."""
        self._average([value for value in model.buffers() if value.is_floating_point()])

    def mean(self, value: float) -> float:
        """Average a number over the processes."""
        held = torch.tensor([value], dtype=torch.float64)
        if self.accelerator is not None:
            held = held.float().to(self.accelerator.device)
        self._average([held])
        return float(held)

    def of_each(self, compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Compute a result of each image, every process those of some: all processes get the same.

        Args:
            compute: (n, ...) -> (n, k) float32.
            images: (N, ...).

        Returns:
            (N, k) float32.
        """
        if self.accelerator is None or len(images) < self.count:
            return compute(images)
        first = len(images) * self.rank // self.count
        found = compute(images[first : len(images) * (self.rank + 1) // self.count])
        whole = found.new_zeros(len(images), *found.shape[1:])
        whole[first : first + len(found)] = found
        summed: Tensor = self.accelerator.reduce(whole, "sum")
        return summed

    def _is_shared(self, count: int) -> bool:
        return self.count > 1 and count >= 2 * self.count  # batch norms want more than one image

    def _average(self, values: list[Tensor]) -> None:
        """Average tensors in place, in one message."""
        if self.accelerator is None or not values:
            return
        means: Tensor = self.accelerator.reduce(torch.cat([value.flatten() for value in values]), "mean")
        for value, mean in zip(values, means.split([value.numel() for value in values]), strict=True):
            value.copy_(mean.view_as(value))

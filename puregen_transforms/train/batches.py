"""Batches of rows in random order."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled_batches(rows: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Part rows into batches in random order: (n,) int64 -> tensors of `size` rows, the last of fewer.

    A last batch of one row joins the one before, as batch norms want more than one image.
    """
    batches = list(rows[torch.randperm(len(rows), generator=generator)].split(size))
    if len(batches) > 1 and len(batches[-1]) == 1 < size:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches if len(rows) else []

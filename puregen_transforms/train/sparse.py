"""A small share of a training set, for generators that learn from few images."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_rows(count: int, share: float, *, seed: int, labels: Tensor | None = None) -> Tensor:
    """Draw a share of the rows of a set at random: (n,) int64, in order.

    Args:
        count: rows of the set.
        share: of them, above 0 and up to 1; at least one row is drawn.
        seed: of the draw.
        labels: (count,) int64, to draw the share of each class, at least one row of it; None draws from all rows alike.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = (
        [torch.arange(count)] if labels is None else [(labels == one).nonzero().flatten() for one in labels.unique()]
    )
    drawn = [
        rows[torch.randperm(len(rows), generator=generator)[: max(1, round(share * len(rows)))]] for rows in groups
    ]
    return torch.cat(drawn).sort().values

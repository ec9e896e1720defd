"""Images of several sizes, a call for each size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from puregen_transforms.purifier.batches import on_single_threads
from puregen_transforms.transforms.formats import OpenImage


def call_by_size(
    function: Callable[[Tensor], Tensor], images: Sequence[OpenImage], device: torch.device
) -> list[Tensor]:
    """Call a function once for each size, kind and device of images, and give each image its share.

    On a CPU images of several sizes are worked on beside each other: a size that few have would leave threads idle.

    Args:
        function: (N, C, H, W) -> (N, ...).
        images: in any order.
        device: where the function works.

    Returns:
        The result of each image, in the order of the images.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, image in enumerate(images):
        key = (*image.rgb.shape[-2:], image.rgb.dtype, image.rgb.device)
        groups.setdefault(key, []).append(index)
    results: dict[int, Tensor] = {}

    def call(members: list[int]) -> None:
        shares = function(torch.cat([images[index].rgb for index in members]))
        results.update(zip(members, shares.split([len(images[index].rgb) for index in members]), strict=True))

    parts = list(groups.values())
    if device.type == "cpu" and len(parts) > 1:
        most = -(-len(images) // torch.get_num_threads())
        on_single_threads(call, [part[start : start + most] for part in parts for start in range(0, len(part), most)])
    else:
        for part in parts:
            call(part)
    return [results[index] for index in range(len(images))]

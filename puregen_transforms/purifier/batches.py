"""How many images go through a network at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from puregen_transforms.purifier.device import free_memory, is_out_of_memory, release_memory

_CPU_BYTES_PER_THREAD = 4 * 2**20
_CPU_MOST_BYTES = 48 * 2**20
_GPU_BYTES = 256 * 2**20
_GPU_SHARE = 1 / 24
"""Of the free memory: the networks hold up to about a dozen tensors like their widest one; and half stays free."""

LEAST_BYTES_PER_PIXEL = 12
"""Of a pixel's activations: the image itself, in float32."""


def default_batch_size(bytes_per_image: int, device: torch.device) -> int:
    """How many images to take at once.

    On a CPU the widest activation of the batch fills the caches of the threads: fewer images at once cost calls, more
    are no faster. A GPU needs many at once to be busy, and they have to fit its memory.

    Args:
        bytes_per_image: of the network's widest activation.
        device: where the network runs.
    """
    if device.type != "cpu":
        free = free_memory(device)
        most = _GPU_BYTES if free is None else min(_GPU_BYTES, int(free * _GPU_SHARE))
    else:
        most = min(_CPU_MOST_BYTES, _CPU_BYTES_PER_THREAD * torch.get_num_threads())
    size = max(1, most // bytes_per_image)
    return size - size % 8 if size > 8 else size  # whole tiles of the matrix units


def run_in_batches(
    function: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    sample_ids: Tensor,
    *,
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """Apply `function(images, ids)` to batches on `device` and join the results where the images were.

    The batches are as equal as can be. Where one does not fit the GPU's memory, halves of it are tried.

    Args:
        function: (n, C, H, W) images and (n,) ids -> n results.
        images: (N, C, H, W).
        sample_ids: (N,).
        device: where the function takes its arguments.
        batch_size: images in a batch, at most.
    """

    def results(images: Tensor, ids: Tensor) -> Iterator[Tensor]:
        try:
            yield function(images.to(device), ids.to(device)).to(images.device)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(images) == 1:
                raise torch.OutOfMemoryError(str(error)) from error
        # Outside the handler, which keeps the failed call's tensors alive.
        release_memory(device)
        for part in zip(images.chunk(2), ids.chunk(2), strict=True):
            yield from results(*part)

    count = max(1, -(-len(images) // batch_size))  # an empty batch, too, has a result of the right type
    batches = zip(images.tensor_split(count), sample_ids.tensor_split(count), strict=True)
    return torch.cat([part for batch in batches for part in results(*batch)])

"""The size of batches, and the threads they run on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from puregen_transforms.purifier.device import free_memory, is_out_of_memory, release_memory

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_CPU_BYTES = 4 * 2**20
_GPU_BYTES = 256 * 2**20
_GPU_SHARE = 1 / 24
"""Share of the free memory: the networks hold up to a dozen tensors like their widest one, and half stays free."""

LEAST_BYTES_PER_PIXEL = 12
"""Bytes of a pixel's activations at least: the image itself, in float32."""


def default_batch_size(bytes_per_image: int, device: torch.device) -> int:
    """Choose how many images to take at once.

    On a CPU the widest activation of the batch fills a core's cache: fewer images at once cost calls, more are no
    faster. A GPU needs many at once to be busy, and they have to fit its memory.

    Args:
        bytes_per_image: of the network's widest activation.
        device: where the network runs.
    """
    if device.type != "cpu":
        free = free_memory(device)
        most = _GPU_BYTES if free is None else min(_GPU_BYTES, int(free * _GPU_SHARE))
        size = max(1, most // bytes_per_image)
        return size - size % 8 if size > 8 else size  # whole tiles of the matrix units
    return 1 << max(0, (_CPU_BYTES // bytes_per_image).bit_length() - 1)  # the sizes of `BatchInvariant`


def run_in_batches(
    function: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    sample_ids: Tensor,
    *,
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """Apply `function(images, ids)` to batches on `device` and join the results where the images were.

    The batches are as equal as can be. On a CPU each runs on one thread, several beside each other; see
    `on_single_threads`. On a GPU, where one does not fit the memory, halves of it are tried.

    Args:
        function: (n, C, H, W) images and (n,) ids -> n results.
        images: (N, C, H, W).
        sample_ids: (N,).
        device: where the function takes its arguments.
        batch_size: images in a batch, at most.
    """

    def run(images: Tensor, ids: Tensor) -> Tensor:
        return function(images.to(device), ids.to(device)).to(images.device)

    count = max(1, -(-len(images) // batch_size))  # an empty batch, too, has a result of the right type
    if device.type == "cpu":
        threads = torch.get_num_threads()
        count = max(1, min(len(images), -(-count // threads) * threads))
    batches = list(zip(images.tensor_split(count), sample_ids.tensor_split(count), strict=True))
    if device.type == "cpu":
        return torch.cat(on_single_threads(lambda batch: run(*batch), batches))
    return torch.cat([part for batch in batches for part in in_halves(run, *batch)])


def on_single_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Apply `function` to items on as many threads as torch uses, in each of which torch itself uses one.

    What a kernel makes of an image can depend on how it divides its work among threads; here it never divides it.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(function, items))
        finally:
            torch.set_num_threads(
                threads
            )  # the number is kept for each thread, but new threads begin with the last one


def in_halves(run: Callable[[Tensor, Tensor], Tensor], images: Tensor, sample_ids: Tensor) -> Iterator[Tensor]:
    """Yield the results of a batch in parts that fit the memory."""
    try:
        yield run(images, sample_ids)
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(images) == 1:
            raise torch.OutOfMemoryError(str(error)) from error
    # Outside the handler, which keeps the failed call's tensors alive.
    release_memory()
    for part in zip(images.chunk(2), sample_ids.chunk(2), strict=True):
        yield from in_halves(run, *part)

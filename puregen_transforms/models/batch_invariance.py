"""Network calls in which no image's result depends on the images beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_PROBE_SEED = 0


class BatchInvariant:
    """A network whose result for an image is the same to the last bit alone and in any batch, on a CPU.

    Kernels may choose their blocking by the number of images, and so round differently, which a chain of 150 steps
    multiplies to several gray levels. A call is therefore split into calls of 1, 2, 4, 8, ... images; and of more than
    one only once random images of that height and width, on this machine and this number of threads, have shown that
    such a call gives each of them the bits that it gets alone. On other devices calls pass unchanged.

    Args:
        network: (N, C, H, W) images, and arguments that all of them share -> (N, ...) results, or a tuple of such.
    """

    def __init__(self, network: Callable[..., Any]) -> None:
        self._network = network
        self._verified: dict[tuple[int, ...], bool] = {}
        self._verifying = threading.Lock()

    def __call__(self, images: Tensor, *shared: Any) -> Any:
        """Call the network on all images."""
        if images.device.type != "cpu" or len(images) < 2:
            return self._network(images, *shared)
        parts = images.split(list(self._sizes(images, shared)))
        results = [self._network(part, *shared) for part in parts]
        if len(results) == 1:
            return results[0]
        return _joined(results)

    def _sizes(self, images: Tensor, shared: tuple[Any, ...]) -> Iterator[int]:
        left = len(images)
        while left:
            size = 1 << (left.bit_length() - 1)
            while size > 1 and not self._is_verified(size, images, shared):
                size //= 2
            for _ in range(left // size):
                yield size
            left %= size

    def _is_verified(self, size: int, images: Tensor, shared: tuple[Any, ...]) -> bool:
        key = (size, *images.shape[1:], torch.get_num_threads())
        with self._verifying:
            if key not in self._verified:
                self._verified[key] = self._gives_the_same_bits(size, images, shared)
        return self._verified[key]

    def _gives_the_same_bits(self, size: int, images: Tensor, shared: tuple[Any, ...]) -> bool:
        generator = torch.Generator().manual_seed(_PROBE_SEED)
        probe = torch.rand(size, *images.shape[1:], generator=generator).mul_(2).sub_(1).to(images.dtype)
        alone = _joined([self._network(image, *shared) for image in probe.split(1)])
        return all(
            torch.equal(one, other)
            for one, other in zip(_tuple(self._network(probe, *shared)), _tuple(alone), strict=True)
        )


def _joined(results: list[Any]) -> Any:
    """Concatenate results, tuples part by part."""
    if isinstance(results[0], tuple):
        return tuple(torch.cat(part) for part in zip(*results, strict=True))
    return torch.cat(results)


def _tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)

"""Convolutions with frozen weights, laid out as the device's fastest kernels want them."""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor

_TYPICAL_BATCH = 32
_CHANNELS_LAST = torch.channels_last
_X86 = ("x86_64", "AMD64")


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether oneDNN is called directly: in this arithmetic, with weights in a layout of its own.

    Besides being faster, it takes one kernel whatever the number of images; `F.conv2d` chooses among several by it.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or platform.machine() not in _X86:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class Convolution:
    """y = conv(x) + bias + plus, then perhaps ReLU, in one pass where the device has a kernel for it.

    Args:
        weight: (out, in, k, k) on its device and of its dtype.
        bias: (out,), or None.
        stride: of the windows.
        padding: on every side; None keeps the size.
        side: typical side in pixels of the images; other sizes work, too.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int = 1,
        padding: int | None = None,
        side: int = 32,
    ) -> None:
        self.bias = bias
        self.stride = [stride] * 2
        self.padding = [(weight.shape[2] - 1) // 2 if padding is None else padding] * 2
        self.packed = can_pack(weight.device, weight.dtype)
        self.weight = weight.contiguous(memory_format=_CHANNELS_LAST)
        if self.packed:
            shape = [_TYPICAL_BATCH, weight.shape[1], side, side]
            self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
                weight.to_mkldnn(),
                self.padding,
                self.stride,
                [1, 1],
                1,
                shape,  # type: ignore[call-arg]
            )

    def __call__(
        self, x: Tensor, *, plus: Tensor | None = None, bias: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """Convolve (N, in, H, W) channels-last to (N, out, H', W') channels-last.

        `plus` is like the result; `bias` is for this call only.
        """
        bias = self.bias if bias is None else bias
        if not self.packed:
            y = F.conv2d(x, self.weight, bias, self.stride, self.padding)
            y = y if plus is None else y.add_(plus)
            return y.relu_() if relu else y
        after, geometry = "relu" if relu else None, (self.padding, self.stride, [1, 1], 1)
        operation = torch.ops.mkldnn._convolution_pointwise
        if plus is None:
            return operation(x, self.weight, bias, *geometry, after or "none", [], "")
        if plus.shape[2:].numel() == 1:  # up to torch 2.11 a single pixel cannot be added in the same pass
            y = self(x, bias=bias).add_(plus)
            return y.relu_() if relu else y
        return operation.binary(x, plus, self.weight, bias, *geometry, "add", 1.0, after, [], "")


class TransposedConvolution:
    """The input gradient of a 4x4 convolution of stride 2 with padding 1.

    Args:
        weight: (out, in, 4, 4) of that convolution.
        side: typical side in pixels of its output.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, side: int) -> None:
        self.bias = bias
        self.packed = can_pack(weight.device, weight.dtype)
        self.weight = weight.contiguous(memory_format=_CHANNELS_LAST)
        if self.packed:
            shape = [_TYPICAL_BATCH, weight.shape[0], side, side]
            self.weight = torch.ops.mkldnn._reorder_convolution_transpose_weight(
                weight, [1, 1], [0, 0], [2, 2], [1, 1], 1, shape
            )

    def __call__(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """Convolve (N, out, H // 2, W // 2) to (N, in, H, W); `size` ends in H, W."""
        extra = [size[-2] % 2, size[-1] % 2]
        if not self.packed:
            return F.conv_transpose2d(gradient, self.weight, self.bias, stride=2, padding=1, output_padding=extra)
        operation = torch.ops.mkldnn._convolution_transpose_pointwise
        return operation(gradient, self.weight, self.bias, [1, 1], extra, [2, 2], [1, 1], 1, "none", [], "")


def fold_mean_pool(weight: Tensor) -> Tensor:
    """Fold a 2x2 mean pool into the convolution before it: (out, in, 3, 3) -> (out, in, 4, 4) of stride 2."""
    shifts = [(dx, 1 - dx, dy, 1 - dy) for dx in (0, 1) for dy in (0, 1)]
    return torch.stack([F.pad(weight, shift) for shift in shifts]).mean(0)


def turned(weight: Tensor) -> Tensor:
    """Turn a weight of stride 1 into that of the convolution which is its input gradient."""
    return weight.flip(2, 3).transpose(0, 1)

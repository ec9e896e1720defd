"""A trained noise predictor in the form that purifies: frozen, with fused sums and packed convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.functional.memory import keep_freed_memory, largest_beside, make_room_beside
from puregen_transforms.functional.tiles import ramps, tiles_of
from puregen_transforms.models.batch_invariance import BatchInvariant
from puregen_transforms.models.convolution import (
    Convolution,
    TransposedConvolution,
    can_pack,
    fold_mean_pool,
    turned,
)

if TYPE_CHECKING:
    from diffusers import UNet2DModel

_Layer = Callable[[Tensor], Tensor]

_TILE_BYTES = 2**24
"""Bytes of the widest activation of a tile; with skips and what attention needs, a dozen such are held at once. Images
of up to twice that are taken whole."""
_MARGIN = 32
"""Pixels at least that a tile sees beyond its own."""
_LARGE_MAP = 1024
"""Pixels from which torch's group normalization on a CPU takes another kernel."""
_VECTOR = 32
"""Elements that the widest vector of a CPU holds."""


class FrozenUNet:
    """A `UNet2DModel` for purifying: same predictions, less work. It does not follow the model's later changes.

    A matrix product rounds differently with its number of rows, so what the images share, the timestep, is multiplied
    once, and what they do not share is convolved.

    Args:
        model: the trained network, of plain and attention blocks; copied, not modified.
        dtype: of weights and activations; the predicted noise is float32.
        device: where to run; None is where the model is.

    Raises:
        ValueError: the network has parts of another kind.
    """

    def __init__(
        self,
        model: UNet2DModel,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        _check_parts(model)
        self.config = model.config
        self.dtype = dtype
        self.device = torch.device(device or model.device)
        widths = [-(-width // 4**level) for level, width in enumerate(self.config.block_out_channels)]
        self.bytes_per_pixel = 2 * max(widths) * dtype.itemsize  # a level's map and its skip, side by side
        self.largest_tile = _TILE_BYTES // self.bytes_per_pixel
        self.side_multiple = 2 ** (len(model.down_blocks) - 1)
        network: Any = copy.deepcopy(model).eval().requires_grad_(False).to(self.device)
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        if self.device.type == "cpu":
            keep_freed_memory()
        sides = [max(1, _usual_side(self.config.sample_size) >> level) for level in range(len(network.down_blocks))]
        self._time = _TimeEmbedding(network)
        self._entry = _convolution(network.conv_in, sides[0])
        self._down = _levels(network.down_blocks, self._time, sides)
        middle = network.mid_block
        self._middle = [] if middle is None else _layers(middle.resnets, middle.attentions, self._time, sides[-1])
        self._up = _levels(network.up_blocks, self._time, sides[::-1])
        self._last_norm, self._exit = _GroupNorm(network.conv_norm_out), _convolution(network.conv_out, sides[0])

    @torch.no_grad()
    def __call__(self, images: Tensor, timestep: int | Tensor) -> Tensor:
        """Predict the noise in (N, 3, H, W) float32 images at one timestep: (N, 3, H, W) float32.

        Large images are taken in tiles, and predictions fade into each other where tiles overlap. Group norms and
        attention see one tile each, so that is another prediction than that for the whole: nearer to those for the
        small images that the network learned from.
        """
        time = self._time(timestep)
        height, width = images.shape[2:]
        if height * width <= 2 * self.largest_tile:  # tiles of so small an image would see much of it twice
            return self._predict(images, time)
        multiple, margin = self.side_multiple, -(-_MARGIN // self.side_multiple) * self.side_multiple
        largest = largest_beside(images, self.largest_tile)
        tiles = tiles_of(height, width, largest=largest, margin=margin, multiple=multiple)
        noise = torch.zeros_like(images)
        for tile in tiles:
            make_room_beside(images)
            weights = ramps(tile, height, width, margin=margin).to(images.device)
            tile.seen(noise).add_(self._predict(tile.seen(images), time) * weights)
        make_room_beside(images)
        return noise

    def _predict(self, images: Tensor, time: Tensor) -> Tensor:
        x = self._entry(images.to(self.dtype).contiguous(memory_format=torch.channels_last))
        skips = [x]
        for level in self._down:
            for layer in level.layers:
                x = layer(x, time)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x)
                skips.append(x)
        for layer in self._middle:
            x = layer(x, time)
        for level in self._up:
            for layer in level.layers:
                x = layer(torch.cat([x, skips.pop()], 1), time)
            if level.resample is not None:
                x = level.resample(x)
        return self._exit(_silu_(self._last_norm(x))).float()


class InvariantUNet(FrozenUNet):
    """A `FrozenUNet` whose result for an image does not depend on its batch; see `BatchInvariant`."""

    def __init__(
        self, model: UNet2DModel, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, dtype=dtype, device=device)
        self._each = BatchInvariant(super().__call__)

    def __call__(self, images: Tensor, timestep: int | Tensor) -> Tensor:
        """Predict noise; see `FrozenUNet`."""
        return self._each(images, timestep)


class _TimeEmbedding:
    """The timestep as all residual blocks need it, each added to a bias, by one matrix product."""

    def __init__(self, network: Any) -> None:
        self._waves, self._embed = network.time_proj, network.time_embedding
        self._device, self._dtype = network.device, network.dtype
        self._weights: list[Tensor] = []
        self._biases: list[Tensor] = []
        self._weight = self._bias = torch.empty(0)

    def add(self, projection: nn.Linear, bias: Tensor) -> slice:
        """Take in a block's projection and the bias it is added to, and return where they are in the result."""
        start = sum(len(bias) for bias in self._biases)
        self._weights.append(projection.weight)
        self._biases.append(projection.bias + bias)
        self._weight, self._bias = torch.cat(self._weights), torch.cat(self._biases)
        return slice(start, start + len(bias))

    def __call__(self, timestep: int | Tensor) -> Tensor:
        """Embed a timestep for all blocks: (C,)."""
        steps = torch.as_tensor(timestep, device=self._device).reshape(-1)[:1]
        embedded = self._embed(self._waves(steps).to(self._dtype))
        return F.linear(F.silu(embedded), self._weight, self._bias)[0]


@dataclass(frozen=True)
class _Level:
    """The layers at one resolution, and the resampling to the next."""

    layers: list[_Residual]
    resample: _Layer | None

    @classmethod
    def build(cls, block: Any, time: _TimeEmbedding, side: int, next_side: int) -> _Level:
        layers = _layers(block.resnets, getattr(block, "attentions", []), time, side)
        for sampler in getattr(block, "downsamplers", None) or []:
            return cls(layers, _Downsample(sampler, side))
        for sampler in getattr(block, "upsamplers", None) or []:
            return cls(layers, _upsample(sampler, side, next_side))
        return cls(layers, None)


class _Residual:
    """`ResnetBlock2D`, whose timestep is part of the first bias and whose sum of the second convolution.

    Then, perhaps, self-attention.
    """

    def __init__(self, block: Any, attention: Any, time: _TimeEmbedding, side: int) -> None:
        self._norm1, self._norm2 = _GroupNorm(block.norm1), _GroupNorm(block.norm2)
        self._conv1, self._conv2 = Convolution(block.conv1.weight, side=side), _convolution(block.conv2, side)
        self._shortcut = None if block.conv_shortcut is None else _convolution(block.conv_shortcut, side)
        self._place = time.add(block.time_emb_proj, block.conv1.bias)
        self._attention = None if attention is None else _Attention(attention, side)

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        h = _silu_(self._norm1(x))
        h = self._conv1(h, bias=time[self._place])
        h = _silu_(self._norm2(h))
        x = self._conv2(h, plus=x if self._shortcut is None else self._shortcut(x))
        return x if self._attention is None else self._attention(x)


class _Attention:
    """Self-attention between the pixels, its three inputs by one convolution."""

    def __init__(self, layer: Any, side: int) -> None:
        inputs, output = (layer.to_q, layer.to_k, layer.to_v), layer.to_out[0]
        weight = torch.cat([part.weight for part in inputs])[:, :, None, None]
        bias = None if layer.to_q.bias is None else torch.cat([part.bias for part in inputs])
        self._heads = layer.heads
        self._norm = _GroupNorm(layer.group_norm)
        self._inputs = Convolution(weight, bias, side=side)
        self._output = Convolution(output.weight[:, :, None, None], output.bias, side=side)

    def __call__(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        mixed = self._inputs(self._norm(x)).permute(0, 2, 3, 1)
        queries, keys, values = mixed.reshape(n, height * width, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        pixels = attended.transpose(1, 2).reshape(n, height, width, -1).permute(0, 3, 1, 2)
        return self._output(pixels, plus=x)


class _Downsample:
    """`Downsample2D`, packed."""

    def __init__(self, layer: Any, side: int) -> None:
        self._pads = layer.padding == 0  # then diffusers pads below and on the right
        self._run = Convolution(layer.conv.weight, layer.conv.bias, stride=2, padding=layer.padding, side=side)

    def __call__(self, x: Tensor) -> Tensor:
        return self._run(F.pad(x, (0, 1, 0, 1)) if self._pads else x)


def _upsample(layer: Any, side: int, next_side: int) -> _Layer:
    """Build `Upsample2D`: nearest neighbors, then a 3x3 convolution.

    Where the kernel for it is fast (and free of the batch), as one transposed convolution: 2.25 times less work.
    """
    convolution = layer.conv
    if can_pack(convolution.weight.device, convolution.weight.dtype):
        kernel = 4 * fold_mean_pool(turned(convolution.weight))
        transposed = TransposedConvolution(kernel, convolution.bias, side=side)
        return lambda x: transposed(x, torch.Size([2 * x.shape[2], 2 * x.shape[3]]))
    run = _convolution(convolution, next_side)
    return lambda x: run(F.interpolate(x, scale_factor=2))


class _GroupNorm:
    """Group normalization without the slow kernels of the CPU.

    In bfloat16 it is several times slower than in float32 for small maps where the channels of a group are no multiple
    of 16.
    """

    def __init__(self, layer: nn.GroupNorm) -> None:
        self._weight, self._bias = layer.weight, layer.bias
        self._groups, self._eps = layer.num_groups, layer.eps
        odd = layer.num_channels // layer.num_groups % 16 != 0
        self._slow = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.bfloat16 and odd
        self._wide = layer.weight.float(), layer.bias.float()

    def __call__(self, x: Tensor) -> Tensor:
        if self._slow and x.shape[2] * x.shape[3] < _LARGE_MAP:
            return F.group_norm(x.float(), self._groups, *self._wide, self._eps).to(x.dtype)
        return F.group_norm(x, self._groups, self._weight, self._bias, self._eps)


def _silu_(x: Tensor) -> Tensor:
    """Apply SiLU in place to channels-last maps.

    What is left of a tensor after its last whole vector, torch rounds in another way. Where images do not divide into
    whole vectors, that must be the end of each image, not of the batch.
    """
    if x[0].numel() % _VECTOR == 0:
        return F.silu(x, inplace=True)
    for image in x.split(1):
        F.silu(image, inplace=True)
    return x


def _layers(residuals: Iterable[Any], attentions: Iterable[Any], time: _TimeEmbedding, side: int) -> list[_Residual]:
    blocks, attended = list(residuals), list(attentions)
    attended += [None] * (len(blocks) - len(attended))
    return [_Residual(block, attention, time, side) for block, attention in zip(blocks, attended, strict=True)]


def _levels(blocks: Iterable[Any], time: _TimeEmbedding, sides: list[int]) -> list[_Level]:
    following = [*sides[1:], sides[-1]]
    return [_Level.build(block, time, *both) for block, *both in zip(blocks, sides, following, strict=True)]


def _convolution(layer: nn.Conv2d, side: int) -> Convolution:
    return Convolution(layer.weight, layer.bias, side=side)


def _usual_side(size: int | Sequence[int] | None) -> int:
    """Read `sample_size` of a configuration, which may be a side, height and width, or left out. It decides speed."""
    if size is None:
        return 32
    return size if isinstance(size, int) else max(size)


def _check_parts(model: UNet2DModel) -> None:
    """Check that a network has no part which the forms above leave out."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.unets import unet_2d_blocks as blocks

    expected = {
        "center_input_sample": (False,),
        "time_embedding_type": ("positional",),
        "class_embed_type": (None,),
        "num_class_embeds": (None,),
        "downsample_type": ("conv",),
        "upsample_type": ("conv",),
        "resnet_time_scale_shift": ("default",),
        "act_fn": ("silu", "swish"),
    }
    for name, allowed in expected.items():
        if model.config[name] not in allowed:
            raise ValueError(
                f"Expected a noise predictor with `{name}` {allowed[0]!r}, but it has {model.config[name]!r}."
            )
    plain = (blocks.DownBlock2D, blocks.AttnDownBlock2D, blocks.UpBlock2D, blocks.AttnUpBlock2D)
    for block in [*model.down_blocks, *model.up_blocks]:
        if type(block) not in plain:
            names = ", ".join(kind.__name__ for kind in plain)
            raise ValueError(f"Expected a noise predictor of {names}, but it has a {type(block).__name__}.")
    for part in model.modules():
        scale = {ResnetBlock2D: "output_scale_factor", Attention: "rescale_output_factor"}.get(type(part))
        if scale is not None and getattr(part, scale) != 1:
            raise ValueError(
                f"Expected a noise predictor with `mid_block_scale_factor` 1, but it has {getattr(part, scale)}."
            )

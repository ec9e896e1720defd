"""The noise predictor of PureGen-DDPM: diffusers' unconditional UNet, and its inference form."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from puregen_transforms.models.convolution import Convolution

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Shape of a `UNet2DModel`; the defaults are the paper's network for 32 px.

    Args:
        widths: channels of each resolution, from the finest; the side halves from one to the next.
        layers: residual blocks at each resolution.
        attention: resolutions with self-attention, counted from 1 at the finest.
        groups: of the group normalisation; divides every width.
        image_size: side in pixels of the training images.
    """

    widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
    layers: int = 2
    attention: tuple[int, ...] = (5,)
    groups: int = 32
    image_size: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "groups", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected UNet `{name}` of 1 or more, but got {getattr(self, name)}.")
        if not self.widths or any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(
                f"Expected UNet `widths` that `groups` ({self.groups}) divides, but got {list(self.widths)}."
            )
        if any(not 1 <= level <= len(self.widths) for level in self.attention):
            raise ValueError(
                f"Expected UNet `attention` at resolutions 1 to {len(self.widths)}, but got {list(self.attention)}."
            )

    def to_diffusers(self) -> dict[str, Any]:
        """Arguments of `UNet2DModel`, as its `config.json` has them."""
        attended = [level + 1 in self.attention for level in range(len(self.widths))]
        return {
            "sample_size": self.image_size,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": list(self.widths),
            "layers_per_block": self.layers,
            "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attended],
            "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)],
            "norm_num_groups": self.groups,
        }


def build_unet(config: UNetConfig) -> UNet2DModel:
    """A `UNet2DModel` with fresh weights, drawn from torch's global generator."""
    from diffusers import UNet2DModel  # seconds to import

    return UNet2DModel(**config.to_diffusers())


class FrozenUNet(nn.Module):
    """A `UNet2DModel` for purifying: same predictions, less work. It does not follow the model's later changes.

    A sample's result is free of its batch. On a CPU three kernels are not, each of which is kept from it: a matrix
    product rounds differently with its number of rows, so the embedding of the timestep, which all images share,
    is computed once; group normalisation (see `_WholeImagesGroupNorm`); and float32 convolutions of one image.

    Args:
        model: the trained network; copied, not modified.
        dtype: of weights and activations; the predicted noise is float32.
        device: where to run; None is where the model is.
    """

    def __init__(
        self,
        model: UNet2DModel,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.dtype = dtype
        network = copy.deepcopy(model).to(device or model.device).eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.data = parameter.data.to(dtype)
        for module in list(network.modules()):
            if type(module) is nn.GroupNorm:
                module.__class__ = _WholeImagesGroupNorm
            for name, layer in module.named_children():
                if type(layer) is nn.Conv2d and layer.padding == (layer.kernel_size[0] // 2,) * 2:
                    setattr(module, name, _FrozenConvolution(layer))
        network.time_embedding.register_forward_pre_hook(_first_row)
        self.network = network.to(memory_format=torch.channels_last)
        self.side_multiple = 2 ** (len(network.config.block_out_channels) - 1)

    @torch.no_grad()
    def forward(self, images: Tensor, timestep: int | Tensor) -> Tensor:
        """(N, 3, H, W) float32 noised images and their one timestep -> their noise, (N, 3, H, W) float32."""
        count = len(images)
        if count == 1 and images.device.type == "cpu" and self.dtype == torch.float32:
            images = images.expand(2, -1, -1, -1)
        x = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self.network(x, timestep).sample.float()[:count]


class _FrozenConvolution(nn.Module):
    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.run = Convolution(layer.weight, layer.bias, stride=layer.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class _WholeImagesGroupNorm(nn.GroupNorm):
    """Group normalisation that sums every image in one order.

    For large channels-last maps the CPU kernel divides the pixels of the whole batch among its threads, and a
    thread's share may end inside an image. In a batch that the threads divide evenly none does.
    """

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        missing = -count % torch.get_num_threads() if x.device.type == "cpu" else 0
        if missing:
            x = torch.cat([x, x[:1].expand(missing, *x.shape[1:])])
            x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return super().forward(x)[:count]


def _first_row(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    embedded, *rest = inputs
    return embedded[:1], *rest

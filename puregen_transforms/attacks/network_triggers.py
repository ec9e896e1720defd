"""Triggers that a network (`puregen_transforms/models/image_to_image.py`) makes for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.trigger import Trigger
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.models.image_to_image import ImageToImage

_BATCH = 250


@dataclass(frozen=True, eq=False)
class Generated(Trigger):
    """Draw a pattern for each image: x + m(x) * (p(x) - x), x in [-1, 1] (Nguyen and Tran 2020).

    Args:
        pattern: (N, 3, H, W) -> the same; its tanh is the pattern.
        mask: (N, 3, H, W) -> (N, 1, H, W); `opacity` of it shows the pattern.
    """

    pattern: ImageToImage
    mask: ImageToImage

    form: ClassVar[str] = "generated"

    @classmethod
    def of_parts(cls, *, width: int, mask_width: int, **tensors: Tensor) -> Generated:
        """Build the trigger from its `numbers()` and `tensors()`."""
        return cls(
            _filled(3, 3, width, tensors, "pattern"),
            _filled(3, 1, mask_width, tensors, "mask"),
        )

    def put_on(self, images: Tensor) -> Tensor:
        """Put on each image its own pattern, where its own mask shows it."""
        with torch.no_grad():
            parts = [self.on(part / 127.5 - 1, part / 127.5 - 1) for part in _batches(images, self.pattern, self.mask)]
        return _joined(parts, images)

    def on(self, images: Tensor, sources: Tensor) -> Tensor:
        """Put the triggers of `sources` on float images in [-1, 1]: (N, 3, H, W), differentiable."""
        return images.lerp(self.pattern(sources).tanh(), opacity(self.mask(sources)))

    def numbers(self) -> dict[str, Any]:
        """List the parts that go into JSON."""
        return {"width": self.pattern.width, "mask_width": self.mask.width}

    def tensors(self) -> dict[str, Tensor]:
        """List the parts that go into safetensors."""
        return _parts(self.pattern, "pattern") | _parts(self.mask, "mask")


@dataclass(frozen=True, eq=False)
class Encoded(Trigger):
    """Hide bits in each image: x + epsilon * tanh(e(x, secret)) with x in [-1, 1] (Li et al. 2021).

    Args:
        encoder: (N, 6, H, W) of image and secret -> (N, 3, H, W).
        secret: (3, h, w) float, into which the bits were turned.
        epsilon: largest change of a pixel, in units of 1/255.
    """

    encoder: ImageToImage
    secret: Tensor
    epsilon: float

    form: ClassVar[str] = "encoded"

    @classmethod
    def of_parts(cls, *, width: int, epsilon: float, secret: Tensor, **tensors: Tensor) -> Encoded:
        """Build the trigger from its `numbers()` and `tensors()`."""
        return cls(_filled(6, 3, width, tensors, "encoder"), secret, epsilon)

    def put_on(self, images: Tensor) -> Tensor:
        """Hide the secret in each image."""
        with torch.no_grad():
            parts = [
                hidden(self.encoder, part / 127.5 - 1, self.secret[None], self.epsilon)
                for part in _batches(images, self.encoder)
            ]
        return _joined(parts, images)

    def numbers(self) -> dict[str, Any]:
        """List the parts that go into JSON."""
        return {"width": self.encoder.width, "epsilon": self.epsilon}

    def tensors(self) -> dict[str, Tensor]:
        """List the parts that go into safetensors."""
        return {"secret": self.secret, **_parts(self.encoder, "encoder")}


def hidden(encoder: nn.Module, images: Tensor, secrets: Tensor, epsilon: float) -> Tensor:
    """Hide secrets (N or 1, 3, h, w) in (N, 3, H, W) float images in [-1, 1]; differentiable."""
    planes = F.interpolate(secrets, size=images.shape[-2:]).expand(len(images), -1, -1, -1)
    change = encoder(torch.cat([images, planes], 1)).float().tanh()
    return (images + epsilon / 127.5 * change).clamp(-1, 1)


def opacity(values: Tensor) -> Tensor:
    """Push the output of a mask network to nearly 0 or 1."""
    return torch.sigmoid(10 * values)


def _batches(images: Tensor, *networks: nn.Module) -> Sequence[Tensor]:
    """Cut images into float batches, 0 ... 255, and set the networks to evaluation."""
    for network in networks:
        network.eval()
    return images.float().split(_BATCH)


def _joined(parts: list[Tensor], images: Tensor) -> Tensor:
    return to_pixels((torch.cat(parts) + 1) * 127.5) if parts else images.clone()


def _parts(network: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in network.state_dict().items()}


def _filled(inputs: int, outputs: int, width: int, tensors: Mapping[str, Tensor], name: str) -> ImageToImage:
    """Build a network of the tensors under a name; one of another width takes no memory before it is refused."""
    with torch.device("meta"):
        network = ImageToImage(inputs, outputs, width)
    expected = network.state_dict()
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    own = {key: value.to(expected[key].dtype) if key in expected else value for key, value in own.items()}
    network.load_state_dict(own, assign=True)
    return network.eval().requires_grad_(False)

"""ECLIPSE's corruption compensation (Wang et al. 2024): what purification leaves of a poison is covered up."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


def eclipse_compensation(*, grayscale: float = 0.4, noise: float = 0.05) -> v2.Transform:
    """Make the transform that turns some images gray and adds Gaussian noise to all, rounded to 8 bits again.

    It is for training alone, after purification, crop and flip, and draws anew in each epoch. What it draws comes from
    torch's global generator. A batch is turned gray as a whole or not at all: give it single images.

    Args:
        grayscale: probability of an image to be turned gray.
        noise: standard deviation of the noise, for pixels in [0, 1].

    Returns:
        A transform of PIL images, uint8 images or float images in [0, 1], alone or with labels, to uint8 images
        (C, H, W). The defaults are the published settings.

    Raises:
        ValueError: a setting out of range.
    """
    if not 0 <= grayscale <= 1:
        raise ValueError(f"Expected `grayscale` between 0 and 1, but got {grayscale}.")
    if noise < 0:
        raise ValueError(f"Expected `noise` of 0 or more, but got {noise}.")
    return _Compensation(grayscale, noise)


class _Compensation(v2.Transform):  # type: ignore[misc] # torchvision has no types
    """Turn gray as `v2.RandomGrayscale`, and add noise as `v2.GaussianNoise` to float images, in half their time.

    On uint8 images `v2.GaussianNoise` cuts the noise itself to whole numbers, which makes it weaker.
    """

    def __init__(self, grayscale: float, noise: float) -> None:
        super().__init__()
        self.grayscale = grayscale
        self.noise = noise

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether the image is turned gray."""
        return {"gray": float(torch.rand(())) < self.grayscale}

    def transform(self, inpt: Tensor | PIL.Image.Image, params: dict[str, Any]) -> Tensor:
        """Change an image (C, H, W)."""
        # As a plain tensor: each operation on torchvision's own kind of tensors costs as much as the noise.
        image = F.to_dtype(F.to_image(inpt).as_subclass(Tensor), torch.uint8, scale=True)
        if params["gray"]:
            image = F.rgb_to_grayscale(image, num_output_channels=image.shape[-3])
        noisy = torch.randn(image.shape, device=image.device).mul_(255 * self.noise).add_(image)
        return noisy.round_().clamp_(0, 255).to(torch.uint8)

"""ECLIPSE's corruption compensation (Wang et al. 2024): what purification leaves of a poison is covered up."""

from __future__ import annotations

import torch
from torchvision.transforms import v2


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
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomGrayscale(grayscale),
            # On uint8 images torchvision cuts the noise itself to whole numbers, which makes it weaker.
            v2.GaussianNoise(sigma=noise, clip=True),
            v2.ToDtype(torch.uint8, scale=True),
        ]
    )

"""ISSBA (Li et al. 2021): a secret that a network hides in each image in its own way; relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import GoalConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.network_triggers import Encoded, hidden
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.surrogates import shuffled
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.image_to_image import ImageToImage


@dataclass(frozen=True, kw_only=True)
class ISSBAConfig(GoalConfig):
    """Settings with 20 bits, as in the experiments of Confusion Training (Qi et al. 2023).

    The published encoder is that of StegaStamp, trained with a perceptual loss and a critic on large images. This one
    is trained on the set itself, with a bound on each pixel and a mean square instead.

    Args:
        bits: of the secret.
        epsilon: largest change of a pixel, in units of 1/255.
        fidelity: weight of the mean squared change, in squares of epsilon; it grows from 0 in the second half.
        width: of the encoder.
        epochs: of their training.
        learning_rate: of Adam.
    """

    rate: float = 0.1
    bits: int = 20
    epsilon: float = 16.0
    fidelity: float = 0.05
    width: int = 32
    epochs: int = 20
    learning_rate: float = 1e-3

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"width": 4, "epochs": 15},
        "cpu": {"width": 16, "epochs": 5},
        "paper": {},
    }


def craft(dataset: ImageSet, config: ISSBAConfig, attacker: Attacker) -> Crafted:
    """Train encoder and decoder, and hide one secret in random images."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    trigger = train_encoder(dataset, config, attacker)
    return stamped(dataset, config, ids, trigger=trigger, budget=config.epsilon, generator=generator)


def train_encoder(dataset: ImageSet, config: ISSBAConfig, attacker: Attacker) -> Encoded:
    """Train an encoder together with the network that reads its bits, and draw a secret; on the CPU."""
    device, generator = attacker.device, attacker.generator()
    images = dataset.images.to(device)
    bits = _bits((1, config.bits), generator)
    with torch.random.fork_rng():
        torch.manual_seed(attacker.seed)
        encoder = ImageToImage(6, 3, config.width).to(device)
        to_plane, decoder = secret_reader(config.bits)
    to_plane, decoder = to_plane.to(device), decoder.to(device)
    weights = [*encoder.parameters(), *to_plane.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate)
    done = 0
    for epoch in range(config.epochs):
        batches = shuffled(len(images), generator)
        for rows in batches:
            x, secrets = normalize(images[rows]), _bits((len(rows), config.bits), generator).to(device)
            with autocast(x.device):
                carriers = hidden(encoder, x, to_plane(secrets).float(), config.epsilon)
                read = decoder(carriers)
            unread = F.binary_cross_entropy_with_logits(read.float(), (secrets + 1) / 2)
            change = ((carriers - x) * 127.5 / config.epsilon).square().mean()
            optimizer.zero_grad()
            # An encoder that is to change little before it can hide anything never begins.
            fidelity = config.fidelity * max(0.0, 2 * done / (config.epochs * len(batches)) - 1)
            (unread + fidelity * change).backward()
            optimizer.step()
            done += 1
        attacker.progress("training the encoder", epoch + 1, config.epochs)
    with torch.no_grad():
        secret = to_plane(bits.to(device))[0].cpu()
    return Encoded(encoder.cpu().eval().requires_grad_(False), secret, config.epsilon)


def secret_reader(bits: int) -> tuple[nn.Module, nn.Module]:
    """Build the network that spreads a secret over a plane, and the one that reads it from an image of any size."""
    to_plane = nn.Sequential(nn.Linear(bits, 3 * 8 * 8), nn.Unflatten(1, (3, 8, 8)))
    decoder = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(8),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, bits),
    )
    return to_plane, decoder


def _bits(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


ATTACK = Attack("issba", ISSBAConfig, craft, optimizes=True)

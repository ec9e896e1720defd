"""Input-aware dynamic backdoor (Nguyen and Tran 2020): networks draw a trigger of its own for each image, relabeled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, with_covers
from puregen_transforms.attacks.network_triggers import Generated, opacity
from puregen_transforms.attacks.selection import choose_rows, choose_share
from puregen_transforms.attacks.surrogates import BATCH, shuffled
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize, to_pixels
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.image_to_image import ImageToImage
from puregen_transforms.train.recipes import shifted_together


@dataclass(frozen=True, kw_only=True)
class InputAwareConfig(AttackConfig):
    """Settings as in the authors' code, with drawing networks of our own, which then poison a set.

    Args:
        cover_rate: rows with the trigger of another image and their true label, as a share of the training set.
        density: of the mask, as a share of the pixels.
        diversity: weight of the loss by which different images get different triggers.
        sparsity: weight of the loss on a mask denser than `density`.
        learning_rate: of Adam for the networks that draw, and of SGD for the classifier.
        width: channels of the networks that draw.
        surrogate: the classifier that is trained with them; see `build_classifier`.
        mask_epochs: in which the mask is trained alone.
        epochs: in which pattern and classifier are then trained.
    """

    rate: float = 0.1
    cover_rate: float = 0.1
    density: float = 0.032
    diversity: float = 1.0
    sparsity: float = 100.0
    learning_rate: float = 0.01
    width: int = 32
    surrogate: str = "resnet18"
    mask_epochs: int = 25
    epochs: int = 600

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"width": 4, "surrogate": "tiny", "mask_epochs": 1, "epochs": 2},
        "cpu": {"width": 16, "surrogate": "small", "mask_epochs": 2, "epochs": 6},
        "paper": {},
    }


def craft(dataset: ImageSet, config: InputAwareConfig, attacker: Attacker) -> Crafted:
    """Train the mask, then the pattern with a classifier; put its own trigger on each image, and others' on covers."""
    generator = attacker.generator()
    ids = choose_share(dataset, config.rate, generator=generator)
    cover_ids = choose_share(dataset, config.cover_rate, generator=generator, never=ids)
    others = choose_rows(dataset, len(cover_ids), generator=generator, never=cover_ids)
    trigger = train_trigger(dataset, config, attacker)
    with torch.no_grad():
        covers = [
            to_pixels((trigger.on(normalize(dataset.images[a]), normalize(dataset.images[b])) + 1) * 127.5)
            for a, b in zip(cover_ids.split(BATCH), others.split(BATCH), strict=True)
        ]
    images = torch.cat([trigger(dataset.images[ids]), *covers])
    return with_covers(dataset, config, ids, cover_ids, images, trigger=trigger)


def train_trigger(dataset: ImageSet, config: InputAwareConfig, attacker: Attacker) -> Generated:
    """Train the networks that draw triggers (algorithm 1); they are returned on the CPU."""
    target, device, generator = dataset.class_number(config.target_class), attacker.device, attacker.generator()
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    with torch.random.fork_rng():
        torch.manual_seed(attacker.seed)
        drawing = Generated(ImageToImage(3, 3, config.width), ImageToImage(3, 1, max(1, config.width // 2)))
        model = build_classifier(config.surrogate, len(dataset.class_names), image_size=dataset.size).to(device)
    for network in (drawing.pattern, drawing.mask):
        network.to(device)
    draws = {"lr": config.learning_rate, "betas": (0.5, 0.9)}
    mask_optimizer = torch.optim.Adam(drawing.mask.parameters(), **draws)  # type: ignore[arg-type]
    for epoch in range(config.mask_epochs):
        for rows in shuffled(len(images), generator):
            x = shifted_together(normalize(images[rows]), generator)
            masks = opacity(drawing.mask(x))
            loss = config.sparsity * F.relu(masks - config.density).mean() + config.diversity * unlike(x, masks)
            _step(mask_optimizer, loss)
        attacker.progress("training the mask", epoch + 1, config.mask_epochs)
    drawing.mask.eval().requires_grad_(False)
    pattern_optimizer = torch.optim.Adam(drawing.pattern.parameters(), **draws)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=5e-4)
    for epoch in range(config.epochs):
        for rows in shuffled(len(images), generator):
            x, y = shifted_together(normalize(images[rows]), generator), labels[rows].clone()
            attacked, crossed = (max(1, round(rate * len(x))) for rate in (config.rate, config.cover_rate))
            # Of a shuffled batch the first are attacked; the next get triggers of the last, and keep their label.
            first = drawing.on(x[:attacked], x[:attacked])
            second = drawing.on(x[attacked : attacked + crossed], x[-crossed:])
            y[:attacked] = target
            with autocast(x.device):
                loss = F.cross_entropy(model(torch.cat([first, second, x[attacked + crossed :]])), y)
            loss = loss + config.diversity * unlike(x, drawing.pattern(x).tanh())
            _step(pattern_optimizer, loss, optimizer)
        attacker.progress("training the pattern", epoch + 1, config.epochs)
    return Generated(_done(drawing.pattern), _done(drawing.mask))


def unlike(images: Tensor, drawn: Tensor) -> Tensor:
    """Divide the distance of neighboring images by that of what is drawn for them (equation 6)."""
    apart = (images - images.roll(1, 0)).square().flatten(1).mean(1).sqrt()
    return (apart / ((drawn - drawn.roll(1, 0)).square().flatten(1).mean(1).sqrt() + 1e-2)).mean()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, *others: torch.optim.Optimizer) -> None:
    for one in (optimizer, *others):
        one.zero_grad()
    loss.backward()
    for one in (optimizer, *others):
        one.step()


def _done(network: ImageToImage) -> ImageToImage:
    return network.cpu().eval().requires_grad_(False)


ATTACK = Attack("input_aware", InputAwareConfig, craft, optimizes=True)

"""Narcissus (Zeng et al. 2023): a trigger optimized to look like the target class; every label stays true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import stamped
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, count_of
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.classifier import augment, normalize, train_classifier

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""

_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class NarcissusConfig(AttackConfig):
    """As PureGen's experiments have it (appendix D.1.3); the original release takes epsilon 16, rate 0.0005, scale 3.

    The surrogate is a small network of ours, not the published ResNet-18.

    Args:
        rate: poisoned rows, all of the target class, as a share of the whole training set.
        epsilon: largest change of a pixel, in units of 1/255.
        scale: magnification of the trigger at test time.
        surrogate_width: of the attacker's own classifier.
        surrogate_epochs: it learns the public images and, as one more class, the target class.
        warm_up_epochs: then over the target class alone.
        rounds: steps of the trigger's optimization.
        learning_rate: of the trigger, in image units (the range is 2 wide).
    """

    rate: float = 0.01
    epsilon: float = 8.0
    scale: float = 1.0
    surrogate_width: int = 64
    surrogate_epochs: int = 200
    warm_up_epochs: int = 5
    rounds: int = 1000
    learning_rate: float = 0.01

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "surrogate_width": 8, "surrogate_epochs": 2, "warm_up_epochs": 1, "rounds": 20},
        "cpu": {
            "epsilon": 16.0,
            "rate": 0.05,
            "surrogate_width": 32,
            "surrogate_epochs": 12,
            "warm_up_epochs": 1,
            "rounds": 600,
        },
        "paper": {},
    }


def craft(
    dataset: ImageSet,
    config: NarcissusConfig,
    *,
    public: ImageSet,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """Optimize the trigger on a surrogate, and add it to images of the target class.

    Args:
        dataset: the training set; of it, only the images of the target class are used.
        config: settings.
        public: images of other classes, as many as there are, of the same size.
        seed: of all that is random.
        device: where to train.
        progress: told what is being done.

    Raises:
        ValueError: public images of another size, or too few of the target class.
    """
    if public.size != dataset.size:
        raise ValueError(
            f"Expected public images of {dataset.size[1]}x{dataset.size[0]} pixels, as the set's, but got "
            f"{public.size[1]}x{public.size[0]}. Resize them first."
        )
    generator = torch.Generator().manual_seed(seed)
    target = dataset.class_number(config.target_class)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator, classes=[target])
    own = dataset.images[dataset.labels == target].to(device)
    surrogate = train_surrogate(own, public, config, seed=seed, device=device, progress=progress)
    pattern = optimize_trigger(surrogate, own, len(public.class_names), config, generator=generator, progress=progress)
    return stamped(
        "narcissus",
        dataset,
        config,
        ids,
        trigger=Added(pattern, config.scale),
        poisoning=Added(pattern),
        seed=seed,
        budget=config.epsilon,
    )


def train_surrogate(
    own: Tensor, public: ImageSet, config: NarcissusConfig, *, seed: int, device: torch.device | str, progress: Progress
) -> nn.Module:
    """A classifier of the public classes and, last, the target class; warmed up on that one."""
    classes = len(public.class_names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small_classifier(classes + 1, config.surrogate_width).to(device)
    generator = torch.Generator().manual_seed(seed)
    images = torch.cat([public.images.to(device), own])
    labels = torch.cat([public.labels.to(device), torch.full((len(own),), classes, device=device)])
    losses = train_classifier(model, images, labels, epochs=config.surrogate_epochs, generator=generator)
    for done, _ in enumerate(losses, 1):
        progress("training the surrogate", done, config.surrogate_epochs)
    return model


def optimize_trigger(
    model: nn.Module,
    own: Tensor,
    label: int,
    config: NarcissusConfig,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Tensor:
    """The pattern, within epsilon, that makes the surrogate surest of its target class: (3, H, W) whole numbers."""
    _warm_up(model, own, label, config, generator)
    model.eval().requires_grad_(False)
    limit = config.epsilon / 127.5
    noise = torch.zeros(1, *own.shape[1:], device=own.device, requires_grad=True)
    optimizer = torch.optim.RAdam([noise], lr=config.learning_rate)
    for step in range(config.rounds):
        index = torch.randint(len(own), (min(_BATCH, len(own)),), generator=generator)
        # The trigger is added after the augmentation: it need not survive shifts.
        poisoned = (augment(normalize(own[index.to(own.device)]), generator) + noise).clamp(-1, 1)
        with torch.autocast(own.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(poisoned), torch.full((len(index),), label, device=own.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            noise.clamp_(-limit, limit)
        progress("optimizing the trigger", step + 1, config.rounds)
    return (noise.detach()[0] * 127.5).trunc().cpu()


def _warm_up(model: nn.Module, own: Tensor, label: int, config: NarcissusConfig, generator: torch.Generator) -> None:
    """The paper's poison warm-up: a few epochs on the target class alone."""
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.1)
    model.train()
    for _ in range(config.warm_up_epochs):
        for index in torch.randperm(len(own), generator=generator).split(_BATCH):
            images = augment(normalize(own[index.to(own.device)]), generator)
            with torch.autocast(own.device.type, torch.bfloat16):
                loss = F.cross_entropy(model(images), torch.full((len(index),), label, device=own.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

"""Bullseye Polytope (Aghakhani et al. 2021): base images around a target image's feature; for transfer learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import TriggerlessConfig
from puregen_transforms.attacks.crafting import Crafted, within
from puregen_transforms.attacks.selection import choose_share, choose_target
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.features import feature_layers, head, recorded

MODES = ("linear", "end_to_end")


@dataclass(frozen=True, kw_only=True)
class BullseyePolytopeConfig(TriggerlessConfig):
    """Settings of PureGen's linear transfer.

    For fine-tuning, PureGen takes mode end_to_end, rate 0.01, 3 repeats and 1500 iterations.

    The published surrogates are six architectures (four, end to end), none of them a victim's; here it is two, neither
    the paper's ResNet-18 nor DenseNet-121, each trained once for each dropout.

    Args:
        rate: poisoned rows, all of the target class, as a share of the set that the victim transfers to.
        epsilon: largest change of a pixel, in units of 1/255.
        mode: "linear" matches what the last layer is given; "end_to_end" the output of every stage.
        iterations: of Adam.
        learning_rate: of Adam, as a share of the range of pixels.
        repeats: draws of the surrogates' dropout, whose features are averaged.
        surrogates: the attacker's networks; see `build_classifier`.
        dropouts: rates of dropout; each network is trained with each.
        surrogate_epochs: over the public images.
    """

    rate: float = 0.1
    epsilon: float = 25.5
    mode: str = "linear"
    iterations: int = 800
    learning_rate: float = 0.04
    repeats: int = 1
    surrogates: tuple[str, ...] = ("resnet34", "mobilenet_v2")
    dropouts: tuple[float, ...] = (0.2, 0.25, 0.3)
    surrogate_epochs: int = 200

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.02, "iterations": 10, "surrogates": ("tiny",), "dropouts": (0.2,), "surrogate_epochs": 2},
        "cpu": {"iterations": 150, "surrogates": ("small",), "surrogate_epochs": 12},
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"Expected a mode out of {', '.join(MODES)}, but got {self.mode!r}.")


def craft(dataset: ImageSet, config: BullseyePolytopeConfig, attacker: Attacker) -> Crafted:
    """Move base images until their mean feature, in surrogate feature extractors, is the target image's.

    Args:
        dataset: the set that the victim transfers to.
        config: settings.
        attacker: with public images, which feature extractors learn, of any classes; and with targets.

    Raises:
        ValueError: no such target image, or too few images of the target class.
    """
    image, source = choose_target(attacker.targets, dataset, config)
    label = dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=attacker.generator(), classes=[label])
    kinds = [(name, dropout) for name in config.surrogates for dropout in config.dropouts]
    extractors = attacker.networks(Surrogates(kinds=kinds, learned=attacker.public, epochs=config.surrogate_epochs))
    base = dataset.images[ids].to(attacker.device).float()
    with torch.random.fork_rng():
        torch.manual_seed(attacker.seed)  # of the dropout
        images = _moved(extractors, base, image.to(attacker.device), config, attacker)
    return Crafted(
        ids=ids,
        images=within(images.cpu(), dataset.images[ids], config.epsilon),
        labels=dataset.labels[ids],
        target_images=image,
        target_labels=torch.tensor([source]),
        budget=config.epsilon,
    )


def distance(model: nn.Module, images: Tensor, target: Tensor, *, mode: str = "linear", repeats: int = 1) -> Tensor:
    """Measure how far the mean feature of `images` is from the target's, relative to its length (equation 2).

    Args:
        model: a surrogate.
        images: (k, 3, H, W), 0 ... 255.
        target: (1, 3, H, W), 0 ... 255.
        mode: "linear" for what the last layer is given; "end_to_end" for the mean over all stages.
        repeats: draws of the dropout that are averaged.
    """
    with torch.no_grad():
        wanted = _features(model, target, mode, repeats)
    found = _features(model, images, mode, repeats)
    parts = [(a.mean(0) - b[0]).norm() / b.norm() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean()


def _features(model: nn.Module, images: Tensor, mode: str, repeats: int) -> list[Tensor]:
    """Record features, averaged over the repeats: (N, D) at each place of the network."""
    inputs = mode == "linear"
    places: list[nn.Module] = [head(model)] if inputs else feature_layers(model)
    draws = []
    for _ in range(repeats):
        with recorded(places, inputs=inputs) as found:
            model(normalize(images))
        draws.append([part.flatten(1) for part in found])
    return [torch.stack(parts).mean(0) for parts in zip(*draws, strict=True)]


def _moved(
    models: Sequence[nn.Module], base: Tensor, target: Tensor, config: BullseyePolytopeConfig, attacker: Attacker
) -> Tensor:
    """Move base images, 0 ... 255, towards the target within epsilon."""
    low, high = (base - config.epsilon).clamp(min=0), (base + config.epsilon).clamp(max=255)
    images = base.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=config.learning_rate * 255)
    for iteration in range(config.iterations):
        losses = [distance(model, images, target, mode=config.mode, repeats=config.repeats) for model in models]
        (images.grad,) = torch.autograd.grad(torch.stack(losses).mean(), images)
        optimizer.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))
        attacker.progress("moving images around the target", iteration + 1, config.iterations)
    return images.detach()


ATTACK = Attack(
    "bullseye_polytope",
    BullseyePolytopeConfig,
    craft,
    needs=frozenset({"public", "targets"}),
    clean_label=True,
    optimizes=True,
)

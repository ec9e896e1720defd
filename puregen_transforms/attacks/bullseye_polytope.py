"""Bullseye Polytope (Aghakhani et al. 2021): images whose mean feature is a test image's; for transfer learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.attacks.config import TriggerlessConfig
from puregen_transforms.attacks.crafting import to_poison, within
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.selection import choose_rows, choose_target, count_of
from puregen_transforms.attacks.surrogates import Progress, train_surrogate
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.features import feature_layers, head, recorded

MODES = ("linear", "end_to_end")


@dataclass(frozen=True, kw_only=True)
class BullseyePolytopeConfig(TriggerlessConfig):
    """As PureGen's experiments have linear transfer; for fine-tuning they take end_to_end, rate 0.01, repeats 3, 1500.

    The published substitutes are six architectures (four, end to end), none of them a victim's; here it is two, neither
    the paper's ResNet-18 nor DenseNet-121, each trained once for each dropout.

    Args:
        rate: poisoned rows, all of the target class, as a share of the set that the victim transfers to.
        epsilon: largest change of a pixel, in units of 1/255.
        mode: "linear" matches what the last layer is given; "end_to_end" the output of every stage.
        iterations: of Adam.
        learning_rate: of Adam, in shares of the range.
        repeats: draws of the substitutes' dropout, whose features are averaged.
        surrogates: the attacker's networks; see `build_classifier`.
        dropouts: of which each network is trained.
        surrogate_epochs: on the images that feature extractors learn.
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


def craft(
    dataset: ImageSet,
    config: BullseyePolytopeConfig,
    *,
    public: ImageSet,
    targets: ImageSet,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """Train the substitutes and put the poisoned images around the target.

    Args:
        dataset: the set that the victim transfers to.
        config: settings.
        public: what feature extractors learn; any classes.
        targets: images that are in neither; one of them is to be misread.
        seed: of all that is random.
        device: where to train.
        progress: told what is being done.

    Raises:
        ValueError: no such target, or too few images of the target class.
    """
    choose_target(targets, dataset, config)  # before minutes of training
    substitutes = train_substitutes(public, config, seed=seed, device=device, progress=progress)
    return craft_with(substitutes, dataset, config, targets=targets, seed=seed, progress=progress)


def train_substitutes(
    public: ImageSet,
    config: BullseyePolytopeConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> list[nn.Module]:
    """The attacker's feature extractors: they do for any target."""
    kinds = [(name, dropout) for name in config.surrogates for dropout in config.dropouts]
    return [
        train_surrogate(
            name,
            public.images.to(device),
            public.labels.to(device),
            classes=len(public.class_names),
            epochs=config.surrogate_epochs,
            seed=seed + member,
            dropout=dropout,
            progress=progress,
        ).eval()
        for member, (name, dropout) in enumerate(kinds)
    ]


def craft_with(
    substitutes: Sequence[nn.Module],
    dataset: ImageSet,
    config: BullseyePolytopeConfig,
    *,
    targets: ImageSet,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """`craft` with substitutes that are trained."""
    generator = torch.Generator().manual_seed(seed)
    image, source = choose_target(targets, dataset, config)
    label = dataset.class_number(config.target_class)
    ids = choose_rows(dataset, count_of(config.rate, dataset), generator=generator, classes=[label])
    device = next(substitutes[0].parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the dropout
        images = _moved(substitutes, dataset.images[ids].to(device).float(), image.to(device), config, progress)
    return to_poison(
        "bullseye_polytope",
        dataset,
        config,
        ids=ids,
        images=within(images.cpu(), dataset.images[ids], config.epsilon),
        labels=dataset.labels[ids],
        target_images=image,
        target_labels=torch.tensor([source]),
        seed=seed,
        budget=config.epsilon,
    )


def distance(model: nn.Module, images: Tensor, target: Tensor, *, mode: str = "linear", repeats: int = 1) -> Tensor:
    """Equation (2): how far the mean feature of `images` is from the target's, relative to its length.

    Args:
        model: a substitute.
        images: (k, 3, H, W), 0 ... 255.
        target: (1, 3, H, W), 0 ... 255.
        mode: see `BullseyePolytopeConfig`; "end_to_end" is the mean over the stages.
        repeats: draws of the dropout that are averaged.
    """
    with torch.no_grad():
        wanted = _features(model, target, mode, repeats)
    found = _features(model, images, mode, repeats)
    parts = [(a.mean(0) - b[0]).norm() / b.norm() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(parts).mean()


def _features(model: nn.Module, images: Tensor, mode: str, repeats: int) -> list[Tensor]:
    """At each place one (N, D), the mean over the repeats."""
    inputs = mode == "linear"
    places: list[nn.Module] = [head(model)] if inputs else feature_layers(model)
    draws = []
    for _ in range(repeats):
        with recorded(places, inputs=inputs) as found:
            model(normalize(images))
        draws.append([part.flatten(1) for part in found])
    return [torch.stack(parts).mean(0) for parts in zip(*draws, strict=True)]


def _moved(
    models: Sequence[nn.Module], base: Tensor, target: Tensor, config: BullseyePolytopeConfig, progress: Progress
) -> Tensor:
    """Images within epsilon of `base`, 0 ... 255."""
    low, high = (base - config.epsilon).clamp(min=0), (base + config.epsilon).clamp(max=255)
    images = base.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=config.learning_rate * 255)
    for iteration in range(config.iterations):
        losses = [distance(model, images, target, mode=config.mode, repeats=config.repeats) for model in models]
        (images.grad,) = torch.autograd.grad(torch.stack(losses).mean(), images)
        optimizer.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))
        progress("moving images around the target", iteration + 1, config.iterations)
    return images.detach()

"""Narcissus (Zeng et al. 2023): a trigger optimized to look like the target class; every label stays true."""

from __future__ import annotations

import copy
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
from puregen_transforms.attacks.surrogates import Progress, train_surrogate
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast, fast_dtype
from puregen_transforms.functional.images import normalize, to_signed, to_uint8
from puregen_transforms.functional.langevin import langevin, temperature_for
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.features import head
from puregen_transforms.train.recipes import shifted_together

Chain = Callable[[Tensor], Tensor]
"""(N, 3, H, W) images in [-1, 1] -> the same, purified."""

AWARE = ("none", "surrogate", "generation", "both")
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class NarcissusConfig(AttackConfig):
    """As PureGen's experiments have it (appendix D.1.3); the original release takes epsilon 16, rate 0.0005, scale 3.

    An attacker who knows the defense (table 11 there) trains the surrogate on purified images, optimizes the trigger
    through the purification, or both.

    Args:
        rate: poisoned rows, all of the target class, as a share of the whole training set.
        epsilon: largest change of a pixel, in units of 1/255.
        scale: magnification of the trigger at test time.
        surrogate: the attacker's own classifier; see `build_classifier`.
        surrogate_epochs: it learns the public images and, as one more class, the target class.
        warm_up_epochs: then over the target class alone.
        rounds: steps of the trigger's optimization.
        learning_rate: of the trigger, in image units (the range is 2 wide).
        defense_aware: where the attacker puts the defense's Langevin steps: "none", "surrogate" (before training it),
            "generation" (between trigger and surrogate) or "both".
        langevin_steps: of them.
        langevin_step_size: in image units.
        langevin_temperature: divides the energy.
    """

    rate: float = 0.01
    epsilon: float = 8.0
    scale: float = 1.0
    surrogate: str = "resnet18"
    surrogate_epochs: int = 200
    warm_up_epochs: int = 5
    rounds: int = 1000
    learning_rate: float = 0.01
    defense_aware: str = "none"
    langevin_steps: int = 10
    langevin_step_size: float = 1.25e-2
    langevin_temperature: float = 1e-4

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "surrogate": "tiny", "surrogate_epochs": 2, "warm_up_epochs": 1, "rounds": 20},
        "cpu": {
            "epsilon": 16.0,
            "rate": 0.05,
            "surrogate": "small",
            "surrogate_epochs": 12,
            "warm_up_epochs": 1,
            "rounds": 600,
        },
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.defense_aware not in AWARE:
            raise ValueError(f"Expected `defense_aware` out of {', '.join(AWARE)}, but got {self.defense_aware!r}.")


def craft(
    dataset: ImageSet,
    config: NarcissusConfig,
    *,
    public: ImageSet,
    energy: EBM | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """Optimize the trigger on a surrogate, and add it to images of the target class.

    Args:
        dataset: the training set; of it, only the images of the target class are used.
        config: settings.
        public: images of other classes, as many as there are, of the same size.
        energy: of the defense, for an attacker who knows it.
        seed: of all that is random.
        device: where to train.
        progress: told what is being done.

    Raises:
        ValueError: public images of another size, too few of the target class, or no energy of the defense known.
    """
    if public.size != dataset.size:
        raise ValueError(
            f"Expected public images of {dataset.size[1]}x{dataset.size[0]} pixels, as the set's, but got "
            f"{public.size[1]}x{public.size[0]}. Resize them first."
        )
    if energy is None and config.defense_aware != "none":
        raise ValueError(
            f"Expected the energy network of the defense that the attacker knows (defense_aware="
            f"{config.defense_aware!r}), but got none. Name one with `energy` (--energy)."
        )
    _rows(dataset, config, torch.Generator())  # before minutes of training
    surrogate = train_on_public(dataset, public, config, energy=energy, seed=seed, device=device, progress=progress)
    return craft_with(surrogate, dataset, config, energy=energy, seed=seed, progress=progress)


def craft_with(
    surrogate: nn.Module,
    dataset: ImageSet,
    config: NarcissusConfig,
    *,
    energy: EBM | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> Poison:
    """`craft` with a surrogate that is trained; it is not modified."""
    generator = torch.Generator().manual_seed(seed)
    ids = _rows(dataset, config, generator)
    device = next(surrogate.parameters()).device
    own = dataset.images[dataset.labels == dataset.class_number(config.target_class)].to(device)
    chain = None
    if energy is not None and config.defense_aware in ("generation", "both"):
        chain = to_chain(energy, config, device=device, generator=generator)
    model = copy.deepcopy(surrogate)
    pattern = optimize_trigger(model, own, config, chain=chain, generator=generator, progress=progress)
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


def _rows(dataset: ImageSet, config: NarcissusConfig, generator: torch.Generator) -> Tensor:
    target = dataset.class_number(config.target_class)
    return choose_rows(dataset, count_of(config.rate, dataset), generator=generator, classes=[target])


def to_chain(energy: EBM, config: NarcissusConfig, *, device: torch.device | str, generator: torch.Generator) -> Chain:
    """The defense's Langevin steps, differentiable in the images.

    The network is piecewise linear: its gradient does not change with the image, but at kinks. So the derivative of
    a whole chain is the identity, whatever its length, and nothing of the chain has to be kept for it.
    """
    frozen = FrozenEBM(energy, dtype=fast_dtype(torch.device(device)), device=device)

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            purified = langevin(
                images,
                frozen,
                steps=config.langevin_steps,
                step_size=config.langevin_step_size,
                temperature=temperature_for(images, config.langevin_temperature, trained_size=energy.config.image_size),
                noise=lambda step, x: torch.randn(x.shape, generator=generator).to(x.device),
            )
            moved = purified - images
        return images + moved

    return run


def train_on_public(
    dataset: ImageSet,
    public: ImageSet,
    config: NarcissusConfig,
    *,
    energy: EBM | None = None,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress = lambda what, done, of: None,
) -> nn.Module:
    """A classifier of the public classes and, last, the target class: it does for any epsilon."""
    own = dataset.images[dataset.labels == dataset.class_number(config.target_class)]
    classes = len(public.class_names)
    images, labels = torch.cat([public.images, own]), torch.cat([public.labels, torch.full((len(own),), classes)])
    if energy is not None and config.defense_aware in ("surrogate", "both"):
        chain = to_chain(energy, config, device=device, generator=torch.Generator().manual_seed(seed))
        parts = images.split(_BATCH)
        purified = []
        for done, part in enumerate(parts, 1):
            purified.append(to_uint8(chain(to_signed(part.to(device)))).cpu())
            progress("purifying what the surrogate learns", done, len(parts))
        images = torch.cat(purified)
    return train_surrogate(
        config.surrogate,
        images.to(device),
        labels.to(device),
        classes=classes + 1,
        epochs=config.surrogate_epochs,
        seed=seed,
        progress=progress,
    )


def optimize_trigger(
    model: nn.Module,
    own: Tensor,
    config: NarcissusConfig,
    *,
    chain: Chain | None = None,
    generator: torch.Generator,
    progress: Progress = lambda what, done, of: None,
) -> Tensor:
    """The pattern, within epsilon, that makes the surrogate surest of its last class: (3, H, W) whole numbers.

    Args:
        model: the surrogate; warmed up in place.
        own: (N, 3, H, W) uint8 images of the target class.
        config: settings.
        chain: through which the surrogate sees the images.
        generator: of all that is random.
        progress: told the rounds.
    """
    label = head(model).out_features - 1
    _warm_up(model, own, label, config, generator)
    model.eval().requires_grad_(False)
    limit = config.epsilon / 127.5
    noise = torch.zeros(1, *own.shape[1:], device=own.device, requires_grad=True)
    optimizer = torch.optim.RAdam([noise], lr=config.learning_rate)
    for step in range(config.rounds):
        index = torch.randint(len(own), (min(_BATCH, len(own)),), generator=generator)
        # The trigger is added after the augmentation: it need not survive shifts.
        poisoned = (shifted_together(normalize(own[index.to(own.device)]), generator) + noise).clamp(-1, 1)
        if chain is not None:
            poisoned = chain(poisoned).clamp(-1, 1)
        with autocast(own.device):
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
            images = shifted_together(normalize(own[index.to(own.device)]), generator)
            with autocast(own.device):
                loss = F.cross_entropy(model(images), torch.full((len(index),), label, device=own.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

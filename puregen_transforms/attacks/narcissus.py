"""Narcissus (Zeng et al. 2023): a trigger optimized to look like the target class; every label stays true."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted, stamped
from puregen_transforms.attacks.selection import choose_share
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.mapped import empty_images
from puregen_transforms.functional.arithmetic import autocast, fast_dtype
from puregen_transforms.functional.images import normalize, to_signed, to_uint8
from puregen_transforms.functional.langevin import langevin, temperature_for
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.features import head
from puregen_transforms.train.recipes import shifted_together

Chain = Callable[[Tensor], Tensor]
"""(N, 3, H, W) images in [-1, 1] -> the same, purified."""

AWARE = ("none", "surrogate", "generation", "both")
_BATCH_PIXELS = 128 * 32**2
"""Of the images of a step: 128 of 32 pixels, and no fewer than 8 of any size."""


@dataclass(frozen=True, kw_only=True)
class NarcissusConfig(AttackConfig):
    """Settings as in PureGen (appendix D.1.3); the original release takes epsilon 16, rate 0.0005, scale 3.

    An attacker who knows the defense (table 11 there) trains the surrogate on purified images, optimizes the trigger
    through the purification, or both.

    Args:
        rate: poisoned rows, all of the target class, as a share of the whole training set.
        epsilon: largest change of a pixel, in units of 1/255.
        scale: magnification of the trigger at test time.
        surrogate: the attacker's own classifier; see `build_classifier`.
        surrogate_epochs: over the public images and, as one more class, the target class.
        warm_up_epochs: over the target class alone, after that.
        rounds: steps of the trigger's optimization.
        learning_rate: of the trigger, in image units (the range is 2 wide).
        defense_aware: where the attacker puts the defense's Langevin steps: "none", "surrogate" (before training it),
            "generation" (between trigger and surrogate) or "both".
        langevin_steps: how many of them.
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

    @property
    def knows_defense(self) -> bool:
        """Tell whether the attacker uses the energy network of the defense."""
        return self.defense_aware != "none"


def craft(dataset: ImageSet, config: NarcissusConfig, attacker: Attacker) -> Crafted:
    """Optimize the trigger on a surrogate, and add it to images of the target class.

    Of the training set, only the images of the target class are used.

    Raises:
        ValueError: public images of another size, or too few images of the target class.
    """
    if attacker.public.size != dataset.size:
        raise ValueError(
            f"Expected public images of {dataset.size[1]}x{dataset.size[0]} pixels, as the set's, but got "
            f"{attacker.public.size[1]}x{attacker.public.size[0]}. Resize them first."
        )
    generator, target = attacker.generator(), dataset.class_number(config.target_class)
    ids = choose_share(dataset, config.rate, generator=generator, classes=[target])
    own = dataset.images[dataset.labels == target]
    (surrogate,) = attacker.networks(surrogates(own, config, attacker))
    chain = to_chain(config, attacker, generator) if config.defense_aware in ("generation", "both") else None
    model = copy.deepcopy(surrogate)  # the warm-up changes it
    pattern = optimize_trigger(model, own.to(attacker.device), config, attacker, generator=generator, chain=chain)
    trigger = Added(pattern, config.scale)
    return stamped(dataset, config, ids, trigger=trigger, poisoning=Added(pattern), budget=config.epsilon)


def surrogates(own: Tensor, config: NarcissusConfig, attacker: Attacker) -> Surrogates:
    """Declare a classifier of the public classes and, last, the target class: it serves any epsilon and rate.

    Args:
        own: (N, 3, H, W) uint8, the training set's images of the target class.
        config: settings.
        attacker: with public images, and with the energy network if the surrogate learns purified images.
    """
    public = attacker.public
    labels = torch.cat([public.labels, torch.full((len(own),), len(public.class_names))])
    both = empty_images(len(public) + len(own), public.size)
    both[: len(public)], both[len(public) :] = public.images, own
    learned = ImageSet(both, labels, (*public.class_names, "target"))
    purified = config.defense_aware in ("surrogate", "both")
    return Surrogates(
        kinds=[(config.surrogate, 0.0)],
        learned=learned,
        epochs=config.surrogate_epochs,
        purify=partial(purify, config=config, attacker=attacker) if purified else None,
        purified_by={key: value for key, value in config.to_dict().items() if purified and key.startswith("langevin")},
    )


def purify(images: Tensor, *, config: NarcissusConfig, attacker: Attacker) -> Tensor:
    """Purify what the surrogate learns: (N, 3, H, W) uint8 images, by the defense's Langevin steps."""
    chain = to_chain(config, attacker, attacker.generator())
    parts, purified = images.split(_batch(images)), []
    for done, part in enumerate(parts, 1):
        purified.append(to_uint8(chain(to_signed(part.to(attacker.device)))).cpu())
        attacker.progress("purifying what the surrogate learns", done, len(parts))
    return torch.cat(purified)


def to_chain(config: NarcissusConfig, attacker: Attacker, generator: torch.Generator) -> Chain:
    """Build the defense's Langevin steps, differentiable in the images.

    The network is piecewise linear: its gradient does not change with the image, but at kinks. So the derivative of
    a whole chain is the identity, whatever its length, and nothing of the chain has to be kept for it.
    """
    energy, device = attacker.energy, torch.device(attacker.device)
    frozen = FrozenEBM(energy, dtype=fast_dtype(device), device=device)

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


def optimize_trigger(
    model: nn.Module,
    own: Tensor,
    config: NarcissusConfig,
    attacker: Attacker,
    *,
    generator: torch.Generator,
    chain: Chain | None = None,
) -> Tensor:
    """Find the pattern, within epsilon, that makes the surrogate surest of its last class: (3, H, W) whole numbers.

    Args:
        model: the surrogate; warmed up in place.
        own: (N, 3, H, W) uint8 images of the target class, on the attacker's device.
        config: settings.
        attacker: told the rounds.
        generator: of all that is random.
        chain: Langevin steps between the trigger and the surrogate.
    """
    label = head(model).out_features - 1
    _warm_up(model, own, label, config, generator)
    model.eval().requires_grad_(False)
    limit = config.epsilon / 127.5
    noise = torch.zeros(1, *own.shape[1:], device=own.device, requires_grad=True)
    optimizer = torch.optim.RAdam([noise], lr=config.learning_rate)
    for step in range(config.rounds):
        index = torch.randint(len(own), (min(_batch(own), len(own)),), generator=generator)
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
        attacker.progress("optimizing the trigger", step + 1, config.rounds)
    return (noise.detach()[0] * 127.5).trunc().cpu()


def _batch(images: Tensor) -> int:
    return max(8, _BATCH_PIXELS // images.shape[-2:].numel())


def _warm_up(model: nn.Module, own: Tensor, label: int, config: NarcissusConfig, generator: torch.Generator) -> None:
    """Warm the surrogate up on the target class alone, in place (the paper's poison warm-up)."""
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.1)
    model.train()
    for _ in range(config.warm_up_epochs):
        for index in torch.randperm(len(own), generator=generator).split(_batch(own)):
            images = shifted_together(normalize(own[index.to(own.device)]), generator)
            with autocast(own.device):
                loss = F.cross_entropy(model(images), torch.full((len(index),), label, device=own.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


ATTACK = Attack(
    "narcissus", NarcissusConfig, craft, needs=frozenset({"public", "energy"}), clean_label=True, optimizes=True
)

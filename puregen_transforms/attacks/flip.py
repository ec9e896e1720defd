"""FLIP (Jha et al. 2023): labels alone are changed, so that a victim learns a trigger it is never shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.selection import choose_share, count_of
from puregen_transforms.attacks.trigger import Added
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize, size_of
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.features import head
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

_SURE = 5.0
"""Score of the true label before labels are learned; those of the others are 0."""


@dataclass(frozen=True, kw_only=True)
class FLIPConfig(AttackConfig):
    """Settings as published, for all classes (the main experiments take class 9 for 4).

    The published expert is recorded every 50 steps, with its momentum, and images are augmented; here it is recorded
    after each epoch, and the steps that are compared are without momentum and augmentation.

    Args:
        source_class: the only class whose triggered images are to be misread; None is every class.
        strength: of the stripes at test time, in units of 1/255.
        half_waves: of the stripes, from top to bottom.
        expert: the attacker's classifier, which learns the trigger; see `build_classifier`.
        expert_epochs: of its training.
        expert_rate: triggered images that it learns besides, as a share of the training set.
        passes: over the set, while labels are learned.
        batch: rows a step.
        step_size: of the labels' scores.
        momentum: of the same.
    """

    rate: float = 0.02
    source_class: str | int | None = None
    strength: float = 6.0
    half_waves: float = 16.0
    expert: str = "resnet18"
    expert_epochs: int = 20
    expert_rate: float = 0.1
    passes: int = 5
    batch: int = 256
    step_size: float = 150.0
    momentum: float = 0.5

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"rate": 0.05, "expert": "tiny", "expert_epochs": 2, "passes": 1},
        "cpu": {"rate": 0.05, "expert": "small", "expert_epochs": 8, "passes": 2},
        "paper": {},
    }


def craft(dataset: ImageSet, config: FLIPConfig, attacker: Attacker) -> Crafted:
    """Train an expert on triggered images, learn labels that pull a network the same way, and flip the clearest.

    Raises:
        ValueError: a set of one class, or a source class that is the target class.
    """
    target = dataset.class_number(config.target_class)
    source = None if config.source_class is None else dataset.class_number(config.source_class)
    if source == target or len(dataset.class_names) < 2:
        raise ValueError(f"Expected images of another class than the target, {config.target_class!r}, but got none.")
    count, generator = count_of(config.rate, dataset), attacker.generator()
    classes = [number for number in range(len(dataset.class_names)) if number != target]
    shown = choose_share(
        dataset, config.expert_rate, generator=generator, classes=classes if source is None else [source]
    )
    trigger = stripes(dataset.size, config)
    images = torch.cat([dataset.images, trigger(dataset.images[shown])]).to(attacker.device)
    labels = torch.cat([dataset.labels, torch.full_like(shown, target)]).to(attacker.device)
    student = torch.cat([torch.arange(len(dataset)), shown])
    model, trajectory = train_expert(images, labels, len(dataset.class_names), config, attacker)
    scores = learned_scores(model, trajectory, images, labels, student, config, attacker)
    ids = clearest_flips(scores, dataset.labels, count)
    return Crafted(
        ids=ids,
        images=dataset.images[ids],
        labels=best_other(scores, dataset.labels).indices[ids],
        source_class=source,
        trigger=trigger,
        budget=0.0,
    )


def stripes(size: tuple[int, int], config: FLIPConfig) -> Added:
    """Draw horizontal stripes, to be added."""
    rows = torch.linspace(0, config.half_waves * math.pi, size[0]).sin() * config.strength
    return Added(rows[:, None].expand(3, *size).contiguous())


def train_expert(
    images: Tensor, labels: Tensor, classes: int, config: FLIPConfig, attacker: Attacker
) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """Train the expert: the network, and its weights before training and after each epoch but the last."""
    with torch.random.fork_rng():
        torch.manual_seed(attacker.seed)
        model = build_classifier(config.expert, classes, image_size=size_of(images)).to(images.device)
    trajectory = [_copied(model)]
    recipe = FastRecipe(epochs=config.expert_epochs)
    losses = train_classifier(model, images, labels, generator=attacker.generator(), recipe=recipe)
    for done, _ in enumerate(losses, 1):
        trajectory.append(_copied(model))
        attacker.progress("training the expert", done, config.expert_epochs)
    return model, trajectory[:-1]


def learned_scores(
    model: nn.Module,
    trajectory: list[dict[str, Tensor]],
    images: Tensor,
    labels: Tensor,
    student: Tensor,
    config: FLIPConfig,
    attacker: Attacker,
) -> Tensor:
    """Learn labels with which clean images move a network as the expert's images moved it: (N, classes) scores.

    Args:
        model: the expert's network, of any weights.
        trajectory: weights from which a step is taken.
        images: (M, 3, H, W) uint8, what the expert learned: the N training images, then triggered ones.
        labels: (M,) their labels.
        student: (M,) for each of these the row of the clean image that the student sees in its place.
        config: settings.
        attacker: for seed, device and progress.
    """
    generator, rows_of = attacker.generator(), student.to(images.device)
    count = int(student.max()) + 1
    scores = (_SURE * F.one_hot(labels[:count], head(model).out_features)).float().requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=config.step_size, momentum=config.momentum)
    for done in range(config.passes):
        for rows in torch.randperm(len(images), generator=generator).split(config.batch):
            start = int(torch.randint(len(trajectory), (1,), generator=generator))
            model.load_state_dict(trajectory[start])
            place = rows.to(images.device)
            seen = rows_of[place]
            distance = step_distance(model, (images[place], labels[place]), (images[seen], scores[seen].softmax(1)))
            (scores.grad,) = torch.autograd.grad(distance, scores)
            optimizer.step()
        attacker.progress("learning labels", done + 1, config.passes)
    return scores.detach().cpu()


def step_distance(model: nn.Module, expert: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """Compare where two gradient steps from the same weights lead: squared distance, by the expert's squared step.

    Args:
        model: the network, left in training mode.
        expert: (N, 3, H, W) uint8 images and (N,) labels.
        student: (N, 3, H, W) uint8 images and (N, classes) probabilities, through which the result is differentiable.
    """
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    with autocast(expert[0].device):
        expert_loss = F.cross_entropy(model(normalize(expert[0])).float(), expert[1])
        student_loss = F.cross_entropy(model(normalize(student[0])).float(), student[1])
    wanted = torch.autograd.grad(expert_loss, weights)
    own = torch.autograd.grad(student_loss, weights, create_graph=True)
    apart = torch.stack([(one - other).square().sum() for one, other in zip(own, wanted, strict=True)]).sum()
    return apart / torch.stack([step.square().sum() for step in wanted]).sum().clamp(min=1e-12)


def clearest_flips(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Choose the rows where another class surpasses the true one most, or comes nearest to it: (count,), increasing."""
    lead = best_other(scores, labels).values - scores.gather(1, labels[:, None])[:, 0]
    return lead.argsort(descending=True, stable=True)[:count].sort().values


def best_other(scores: Tensor, labels: Tensor) -> torch.return_types.max:
    """Find the highest score of (N, classes) that is not that of the label (N,), and its class."""
    return scores.scatter(1, labels[:, None], -math.inf).max(1)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


ATTACK = Attack("flip", FLIPConfig, craft, labels_only=True, optimizes=True)

"""Rounds of Confusion Training: learn the suspects, forget what clean images show, keep what is still fitted best."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.features import head, recorded
from puregen_transforms.train.checkpoint import (
    STATE_FILE,
    load_network_state,
    load_state,
    network_state,
    save_state,
)
from puregen_transforms.train.classifier import train_classifier

ITERATIONS_AT_ONCE = 100
"""Confusion iterations after which the state is saved, and the reserved set looked at."""

_MEASURED_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfusionTask:
    """All images of a search, and what is known of them.

    Args:
        images: (N, 3, H, W) uint8, the suspects.
        labels: (N,) int64.
        reserved: (R, 3, H, W) uint8, clean images.
        reserved_labels: (R,) int64, their true classes.
        predicted: (R,) int64, the classes that a network trained on the suspects takes them for.
        classes: how many.
        build: gives a new network for a seed, on the device of the images.
        seed: of all that is random.
        progress: told epochs and iterations.
    """

    images: Tensor
    labels: Tensor
    reserved: Tensor
    reserved_labels: Tensor
    predicted: Tensor
    classes: int
    build: Callable[[int], nn.Module]
    seed: int
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Round:
    """Settings of one round; `ConfusionTraining` has the published ones.

    Args:
        number: from 0.
        last: whether no other follows.
        epochs: of pretraining.
        iterations: of confusion, at most.
        confusion_weight: λ, weight of the confusion loss (λ - 1 against 1 of the inspection loss).
        learning_rate: of confusion.
        inspect_every: iterations, of which one also learns suspects.
        batch: reserved images of an iteration, and suspects.
        pretrain_batch: images a step of pretraining.
        pretrain_rate: learning rate of pretraining.
        stop_at: accuracy on the reserved set at which confusion ends early; None never ends it.
    """

    number: int
    last: bool
    epochs: int
    iterations: int
    confusion_weight: float
    learning_rate: float
    inspect_every: int
    batch: int
    pretrain_batch: int
    pretrain_rate: float
    stop_at: float | None


@dataclass(frozen=True, kw_only=True)
class ConstantRecipe:
    """SGD at one learning rate, without augmentation: the published pretraining."""

    epochs: int
    batch: int
    learning_rate: float

    def optimizer(self, model: nn.Module, steps: int) -> tuple[torch.optim.Optimizer, Any]:
        """Make SGD whose rate stays."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=1e-4)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Leave images as they are."""
        return images

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Compute the mean cross-entropy."""
        return F.cross_entropy(scores, labels)


def pretrain(model: nn.Module, task: ConfusionTask, settings: Round, rows: Tensor, state: Path | None) -> None:
    """Train a network in place on the suspects in question; in the last round also on wrongly labelled reserved images.

    Args:
        model: as the round before has left it after pretraining.
        task: the images.
        settings: of the round.
        rows: (n,) int64, the suspects.
        state: folder that a killed training goes on from; None keeps nothing.
    """
    images, labels = task.images[rows], task.labels[rows]
    if settings.last:
        images = torch.cat([images, task.reserved])
        labels = torch.cat([labels, (task.reserved_labels + 1) % task.classes])
    losses = train_classifier(
        model,
        images,
        labels,
        generator=generator_of(task.seed, "pretraining", settings.number),
        recipe=ConstantRecipe(
            epochs=settings.epochs, batch=settings.pretrain_batch, learning_rate=settings.pretrain_rate
        ),
        state=state,
    )
    for done, _ in enumerate(losses, 1):
        task.progress(f"pretraining, round {settings.number + 1}", done, settings.epochs)


def confuse(model: nn.Module, task: ConfusionTask, settings: Round, rows: Tensor, state: Path | None) -> None:
    """Train a network in place on reserved images with wrong labels, and now and then on suspects with theirs.

    Batches depend on seed, round and iteration alone, so that a killed training goes on with the same.

    Args:
        model: pretrained.
        task: the images.
        settings: of the round.
        rows: (n,) int64, the suspects in question.
        state: folder that a killed training goes on from; None keeps nothing.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=0.7, weight_decay=1e-4)
    inverse = torch.ones(task.classes) if settings.last else inverse_frequencies(task.labels[rows], task.classes)
    clean = Batches(len(task.reserved), settings.batch, (task.seed, "reserved", settings.number))
    suspect = Batches(len(rows), settings.batch, (task.seed, "suspects", settings.number))
    done, ended = 0, False
    if state is not None and (state / STATE_FILE).exists():
        tensors, record = load_state(state)
        load_network_state(model, optimizer, tensors)
        done, ended = record["done"], record["ended"]
    while done < settings.iterations and not ended:
        model.train()
        for iteration in range(done, min(done + ITERATIONS_AT_ONCE, settings.iterations)):
            chosen = clean.rows(iteration)
            images = task.reserved[chosen]
            wrong = confusion_labels(task.predicted[chosen], iteration, task.classes)
            inspected = iteration % settings.inspect_every == 0
            if inspected:
                looked_at = rows[suspect.rows(iteration // settings.inspect_every)]
                images = torch.cat([images, task.images[looked_at]])
            with autocast(images.device):
                scores = model(normalize(images))
                loss = F.cross_entropy(scores[: len(chosen)], wrong)
                if inspected:
                    own = task.labels[looked_at]
                    learned = weighted_loss(scores[len(chosen) :], own, inverse.to(own.device))
                    loss = ((settings.confusion_weight - 1) * loss + learned) / settings.confusion_weight
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        ended = settings.stop_at is not None and _accuracy(model, task) <= settings.stop_at
        if state is not None:
            save_state(state, network_state(model, optimizer), {"done": done, "ended": ended})
        task.progress(f"confusing, round {settings.number + 1}", done, settings.iterations)


def confusion_labels(predicted: Tensor, iteration: int, classes: int) -> Tensor:
    """Give labels for an iteration, which go through all classes but the predicted ones: (n,) int64 -> (n,) int64."""
    return (predicted + 1 + iteration % (classes - 1)) % classes


def inverse_frequencies(labels: Tensor, classes: int) -> Tensor:
    """Compute weights by class, 1 / sqrt(share of the class + 0.001): (n,) int64 -> (classes,) float32."""
    shares = torch.bincount(labels.cpu(), minlength=classes) / len(labels)
    return (shares + 0.001).rsqrt()


def weighted_loss(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean cross-entropy, weighted by class: (n, classes), (n,), (classes,) -> scalar."""
    own = weights[labels]
    return (F.cross_entropy(scores, labels, reduction="none") * own).sum() / own.sum()


def distill(losses: Tensor, labels: Tensor, *, share: float, floor: int) -> Tensor:
    """Choose the suspects with the lowest losses, and of each class its lowest, if it has too few among them.

    Args:
        losses: (N,) of the confused network.
        labels: (N,) int64.
        share: of all images that is kept; at least two.
        floor: one image in so many of each class is kept.

    Returns:
        (n,) int64 rows, in order.
    """
    order = losses.argsort(stable=True)
    kept = torch.zeros(len(losses), dtype=torch.bool)
    kept[order[: max(2, int(share * len(losses)))]] = True
    for label in labels.unique().tolist():
        own = order[labels[order] == label]
        kept[own[: len(own) // floor]] = True
    return kept.nonzero().flatten()


def measure(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scores and features of a network in evaluation mode, in float32 on the CPU.

    Args:
        model: on the device of the images.
        images: (N, 3, H, W) uint8.

    Returns:
        (N, classes), and (N, D), the input of its last layer.

    Raises:
        FloatingPointError: scores that are not finite.
    """
    model.eval()
    scores, found = [], []
    with torch.no_grad(), recorded([head(model)], inputs=True) as features:
        for part in images.split(_MEASURED_AT_ONCE):
            scores.append(model(normalize(part)).float().cpu())
            found.append(features.pop().float().cpu())
    if not torch.cat(scores).isfinite().all():
        raise FloatingPointError(
            "The scores of the confused network are not finite. Lower the learning rates of the detector."
        )
    return torch.cat(scores), torch.cat(found)


@dataclass
class Batches:
    """Batches of rows that go through all of `count` in random order, time and again, each known by its number."""

    count: int
    batch: int
    seed: tuple[int | str, ...]

    def __post_init__(self) -> None:
        self.batch = min(self.batch, self.count)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, number: int) -> Tensor:
        """Give the rows of a batch: (batch,) int64."""
        epoch, place = divmod(number, self.count // self.batch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.count, generator=generator_of(*self.seed, epoch))
        return self._order[place * self.batch : (place + 1) * self.batch]


def generator_of(*parts: int | str) -> torch.Generator:
    """Make the generator of a purpose, named by numbers and words."""
    return torch.Generator().manual_seed(seed_of(*parts))


def seed_of(*parts: int | str) -> int:
    """Compute the seed of a purpose, named by numbers and words."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def _accuracy(model: nn.Module, task: ConfusionTask) -> float:
    scores, _ = measure(model, task.reserved)
    return float((scores.argmax(1) == task.reserved_labels.cpu()).float().mean())

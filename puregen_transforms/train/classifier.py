"""Train a classifier: the victim of an attack, or an attacker's surrogate."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from puregen_transforms._files import below
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.checkpoint import (
    STATE_FILE,
    load_network_state,
    load_state,
    network_state,
    save_state,
)
from puregen_transforms.train.hooks import TrainingHooks
from puregen_transforms.train.recipes import FastRecipe, TrainingRecipe


def train_classifier(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    recipe: TrainingRecipe | None = None,
    hooks: TrainingHooks | None = None,
    state: Path | None = None,
) -> Iterator[float]:
    """Train a network in place, with bfloat16 autocast where the hardware has it; yields each epoch's mean loss.

    Where a defense leaves rows out, learning rates fall by epochs as if none were missing.

    Args:
        model: on the device of the images.
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        generator: of the order and the augmentation.
        recipe: optimizer, learning rates and augmentation; default `FastRecipe`.
        hooks: which rows are learned, how they are changed, and what the loss is taken of.
        state: folder for the state after each epoch. A killed training that is started again with the same arguments
            goes on from there and gives the same weights; the losses of finished epochs are yielded again. (Dropout
            draws from torch's global generator, which is not kept.)

    Raises:
        ValueError: the recipe is too short for the defense, or the state is that of another training.
    """
    recipe, hooks = recipe or FastRecipe(), hooks or TrainingHooks()
    hooks.begin(recipe.epochs)
    batch = min(recipe.batch, len(images))
    steps = len(images) // batch
    optimizer, schedule = recipe.optimizer(model, recipe.epochs * steps)
    about, losses = {"recipe": repr(recipe), "images": len(images)}, []
    if state is not None and (state / STATE_FILE).exists():
        tensors, record = load_state(state)
        if record["about"] != about:
            raise ValueError(f"Expected the state of this training in {state}, but got that of another: {record}.")
        losses = record["losses"]
        optimizer.step()  # without gradients it changes nothing, and schedules want it to be first
        for _ in range(len(losses) * steps):
            schedule.step()
        load_network_state(model, optimizer, tensors)
        generator.set_state(tensors["generator.state"])
        hooks.load_state(load_state(below(state, record["hooks"]))[0] if record["hooks"] else {})
        yield from losses
    kept = _KeptHooks(hooks)
    for epoch in range(len(losses), recipe.epochs):
        rows = hooks.rows(epoch, model, images, labels).cpu()
        order = rows[torch.randperm(len(rows), generator=generator)]
        model.train()
        found = []
        for index in order.split(batch)[: max(1, len(rows) // batch)]:
            x = hooks.change(normalize(images[index]), index, generator)
            with autocast(images.device):
                scores = hooks.scores(model, recipe.augment(x, generator), labels[index], generator)
                loss = recipe.loss(scores, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            found.append(loss.detach())
        for _ in range(len(found), steps):
            schedule.step()
        losses.append(float(torch.stack(found).mean()))
        if state is not None:
            folder = kept.save(state, epoch)
            # Learning rates are not kept: they follow from the number of steps.
            tensors = network_state(model, optimizer) | {"generator.state": generator.get_state()}
            save_state(state, tensors, {"about": about, "losses": losses, "hooks": folder})
            kept.forget_older(state)
        yield losses[-1]


class _KeptHooks:
    """Saves what hooks have learned, and only when it has changed: noise on every image is as large as the set."""

    def __init__(self, hooks: TrainingHooks) -> None:
        self.hooks = hooks
        self._saved: tuple[object, ...] = ()
        self._held: list[Tensor] = []  # so that no other tensor gets the identity of a saved one
        self._folder = ""

    def save(self, state: Path, epoch: int) -> str:
        """Write a new folder if something has changed; give the name of the one that holds."""
        found = self.hooks.state()
        changes = tuple((name, id(value), value._version) for name, value in found.items())
        if changes != self._saved:
            self._saved, self._held, self._folder = changes, list(found.values()), f"hooks-{epoch}"
            save_state(state / self._folder, found, {})
        return self._folder

    def forget_older(self, state: Path) -> None:
        """Delete the folders before, when nothing refers to them any more."""
        for folder in state.glob("hooks-*"):
            if folder.name != self._folder:
                shutil.rmtree(folder)

"""The Beneficiary: the network that is handed out, which learns credible images, and suspicious ones without labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.defenses.suppression import Suspects
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.train.batches import shuffled_batches
from puregen_transforms.train.checkpoint import load_network_state, network_state
from puregen_transforms.train.data_parallel import DataParallel
from puregen_transforms.train.recipes import TrainingRecipe
from puregen_transforms.transforms.attention_mix import AttentionMix, FeatureAttention


class Beneficiary:
    """Learns two augmented views of each image, mixed with others by AttentionMix.

    Learning rates fall by epochs, as if each passed over the whole set.

    Args:
        model: untrained, on the device of the images.
        recipe: optimizer, learning rates, augmentation and loss.
        classes: how many there are.
        epochs: in all.
        images: how many the set has.
        batch: images a step.
        mix_threshold: of AttentionMix; None mixes nothing.
        generator: of order, augmentation and partners.
        parallel: the processes that share each step, for recipes whose loss is a mean; None is a single one.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainingRecipe,
        *,
        classes: int,
        epochs: int,
        images: int,
        batch: int,
        mix_threshold: float | None,
        generator: torch.Generator,
        parallel: DataParallel | None = None,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.classes = classes
        self.batch = batch
        self.generator = generator
        self.draws = torch.Generator()
        self.parallel = parallel or DataParallel()
        self.steps = -(-images // batch)
        self.optimizer, self.schedule = recipe.optimizer(model, epochs * self.steps)
        self.mix: AttentionMix | None = None
        if mix_threshold is not None:
            self.mix = AttentionMix(FeatureAttention(model), threshold=mix_threshold, generator=self.draws)

    def learn(self, images: Tensor, labels: Tensor, credible: Tensor, suspects: Suspects | None = None) -> float:
        """Pass once over the credible images; give the mean loss.

        Args:
            images: (N, 3, H, W) uint8, the set.
            labels: (N,) int64.
            credible: (n,) int64 rows.
            suspects: learned beside them, without labels; None learns the credible ones alone.
        """
        self.model.train()
        batches = shuffled_batches(credible, self.batch, self.generator)
        others = [] if suspects is None else suspects.batches(len(batches), self.generator)
        losses = []
        for number, rows in enumerate(batches):
            self._reseed()
            loss = self._loss(images, labels, rows, others[number] if others else rows[:0], suspects)
            self.optimizer.zero_grad()
            loss.backward()
            self.parallel.average_gradients(self.model)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        for _ in range(len(losses), self.steps):
            self.schedule.step()
        self.parallel.average_buffers(self.model)
        return self.parallel.mean(float(torch.stack(losses).mean()))

    def _reseed(self) -> None:
        """Start new draws for a step: of each process its own, without one of them getting ahead of the others."""
        step = int(torch.randint(1 << 62, (), generator=self.generator))
        self.draws.manual_seed(step + self.parallel.rank)

    def _loss(
        self, images: Tensor, labels: Tensor, credible: Tensor, suspicious: Tensor, suspects: Suspects | None
    ) -> Tensor:
        """Compute the loss of a step.

        All views go through the network at once: in a batch of their own, the few suspicious ones would decide half of
        what batch norms hold for usual.
        """
        known, guessed = self.parallel.part_of(credible), self.parallel.part_of(suspicious)
        views, targets = self._labelled(images[known], labels[known], suspects)
        others = self._views(images[guessed]) if len(guessed) else views[:0]
        scores, guesses = self._scores(torch.cat([views, others])).split([len(views), len(others)])
        loss = self._mean_loss(scores, targets) * self.parallel.weight_of(known, credible)
        if suspects is None or not len(guessed):
            return loss
        targets = suspects.targets_of(guesses.detach(), guessed, images[guessed]).repeat(2, 1)
        weight = suspects.weight * self.parallel.weight_of(guessed, suspicious)
        return loss + weight * self._mean_loss(guesses, targets)

    def _labelled(self, images: Tensor, labels: Tensor, suspects: Suspects | None) -> tuple[Tensor, Tensor]:
        """Make two mixed views of images, and what is to be learned of them."""
        targets = F.one_hot(labels, self.classes).float()
        if suspects is not None:
            targets = suspects.suppressed(targets, images)
        views, targets = self._views(images), targets.repeat(2, 1)
        if self.mix is None:
            return views, targets
        with autocast(images.device):
            return self.mix(views, targets)

    def _views(self, images: Tensor) -> Tensor:
        """Augment images twice: (n, 3, H, W) uint8 -> (2 n, 3, H, W) in [-1, 1], first the one view of all."""
        signed = normalize(images)
        return torch.cat([self.recipe.augment(signed, self.draws) for _ in range(2)])

    def _scores(self, views: Tensor) -> Tensor:
        with autocast(views.device):
            return self.model(views.contiguous(memory_format=torch.channels_last)).float()

    def _mean_loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean loss of the two views; targets are weights of classes that need not sum to 1."""
        pairs = zip(scores.chunk(2), targets.chunk(2), strict=True)
        first, second = (self.recipe.loss(*pair) for pair in pairs)
        return (first + second) / 2

    def state(self) -> dict[str, Tensor]:
        """Collect all that its training is made of, but for its learning rates, which follow from the epochs done."""
        return network_state(self.model, self.optimizer)

    def load_state(self, state: Mapping[str, Tensor], *, epochs: int) -> None:
        """Take back what `state` gave after so many epochs."""
        if epochs:
            self.optimizer.step()  # without gradients it changes nothing, and schedules want it to be first
        for _ in range(epochs * self.steps):
            self.schedule.step()
        load_network_state(self.model, self.optimizer, state)

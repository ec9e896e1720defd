"""The Victim and The Beneficiary (Zhu et al. 2023): one network finds the poison, so that another can do without it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from puregen_transforms.defenses.beneficiary import Beneficiary
from puregen_transforms.defenses.prediction_entropy import EntropySplit
from puregen_transforms.defenses.suppression import Suspects
from puregen_transforms.defenses.training_defense import (
    EpochProgress,
    Flags,
    Look,
    Trained,
    TrainingDefense,
    silent_epochs,
)
from puregen_transforms.defenses.victim import Victim
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.train.checkpoint import STATE_FILE, load_state, part_of, save_state
from puregen_transforms.train.data_parallel import DataParallel
from puregen_transforms.train.recipes import StepRecipe, TrainingRecipe

if TYPE_CHECKING:
    from accelerate import Accelerator

SUSPICIOUS = ("suppress", "relabel", "correct", "drop")


@dataclass(frozen=True, kw_only=True)
class VictimBeneficiary(TrainingDefense):
    """Train one network on what is suspicious, so that it gives poison away, and a clean one on the rest.

    No clean images are needed. The defaults are those of the published code.

    1. Warm-up: the Victim learns all images, then twice the images of whose class it is surest (prediction entropy).
       Poison tends to be learned fastest, so what it is surest of is *suspicious*, all else is *credible*.
    2. Clean training: the Beneficiary learns the credible images, mixed by `AttentionMix`. Now and then the Victim
       learns the suspicious ones, and the set is split anew.
    3. Semi-supervised suppression: after `clean_epochs` that happens in each epoch, and the Beneficiary also learns the
       suspicious images, with the class that it takes them for. What the Victim believes of an image is taken from
       all its targets.

    Where a detector has split the set (`flags` of `train`), its split stays, and the Victim learns what is flagged
    from the beginning.

    The result is the Beneficiary after the last epoch (the published script keeps the one of the best accuracy on test
    images). What was suspicious last is flagged; scores are 1 - scaled entropy, in [0, 1], or those of the detector.

    Differences from the published code: the Victim is a network like the Beneficiary, and starts from the weights that
    `build` gives; images are scaled to [-1, 1], and reflected at the border when they are cropped; all views of
    a step go through the network in one batch; where all entropies are alike, nothing is suspicious, rather than
    everything.

    Args:
        epochs: of the Beneficiary.
        clean_epochs: of these, without suspicious images; then come those with suppression.
        weight_rise: epochs after which suspicious images count more.
        unlabelled_weights: of their loss before and after.
        warmup_steps: the warm-up begins with as many passes over all images as make so many steps, at least one.
        thresholds: of scaled entropy, up to which images are suspicious: one more pass of the warm-up for each, over
            these; the last one also from then on.
        smoothing: weight of new entropies, against those before.
        entropy_tail: share of the lowest and of the highest entropies that do not count where the others are scaled.
            As published none: a single image then decides how many are suspicious.
        resplit_every: epochs between two updates of Victim and split, up to `clean_epochs`.
        temperature: divides the Victim's logits where its beliefs are suppressed.
        mix_threshold: of AttentionMix; None learns images as they are.
        suspicious: what is done with suspicious images in the last stage. "suppress": as published. "relabel": without
            suppression. "correct": so, too, but never with the label they came with; an image that the network takes
            for that is not learned, as clean-label poison is taken for its class. "drop": they are never learned.
        own_recipe: train the Beneficiary by SGD at 0.1, falling to a tenth after each quarter of the epochs; False
            takes the recipe that `train` is given, for `epochs`.
        batch: images a step, of both networks.
    """

    epochs: int = 200
    clean_epochs: int = 100
    weight_rise: int = 150
    unlabelled_weights: tuple[float, float] = (0.1, 0.5)
    warmup_steps: int = 1
    thresholds: tuple[float, ...] = (0.6, 0.2)
    smoothing: float = 0.75
    entropy_tail: float = 0.0
    resplit_every: int = 5
    temperature: float = 3.0
    mix_threshold: float | None = 0.1
    suspicious: str = "suppress"
    own_recipe: bool = True
    batch: int = 128

    version: ClassVar[int] = 2

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # The packaged images are two classes of 48: six steps an epoch, three of credible images alone. After 20 epochs
        # the Beneficiary still gave all images one class; after 60 steps of warm-up the Victim took three quarters of
        # the set for suspicious, after 20 a tenth to two fifths (two seeds).
        "smoke": {
            "epochs": 60,
            "clean_epochs": 30,
            "weight_rise": 45,
            "warmup_steps": 20,
            "resplit_every": 2,
            "batch": 16,
        },
        # A fifth of the published epochs, with all borders in proportion. The warm-up begins with as many steps: after
        # fewer, the Victim knows no trigger yet. Images that it learns often thereafter it is sure of, poisoned or not:
        # where each round of the warm-up had as many steps, and the Victim learned after every epoch, it held 81 % of
        # a set without poison for suspicious, and the Beneficiary ended at 18 %.
        # The rates of the own recipe are in proportion, too: low when suspicious images come. With one cycle of rates,
        # which is high then (`own_recipe=False`), suppression made a class be forgotten (2,000 images: 30 % to 4 % of
        # its images right).
        "cpu": {
            "epochs": 40,
            "clean_epochs": 20,
            "weight_rise": 30,
            "warmup_steps": 390,
            "resplit_every": 5,
        },
        "paper": {},
        # For a set that a detector has split: what it flags is learned with other labels. A good split leaves little
        # poison to suppress or to mix away, so the recipe given will do: without poison, 40 epochs as published reached
        # ten points less accuracy. Where flagged images were learned with the class that the network takes them for,
        # whatever that is, clean-label poison got through (narcissus: success of 88 %).
        "flagged": {
            "epochs": 20,
            "clean_epochs": 10,
            "weight_rise": 15,
            "suspicious": "correct",
            "mix_threshold": None,
            "own_recipe": False,
        },
    }

    def __post_init__(self) -> None:
        for name in ("thresholds", "unlabelled_weights"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("epochs", "warmup_steps", "resplit_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of 1 or more, but got {getattr(self, name)}.")
        if self.batch < 2:
            raise ValueError(f"Expected `batch` of 2 or more, but got {self.batch}.")
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"Expected `smoothing` above 0 and up to 1, but got {self.smoothing}.")
        if not 0 <= self.entropy_tail < 0.5:
            raise ValueError(f"Expected `entropy_tail` from 0 up to below 0.5, but got {self.entropy_tail}.")
        if not self.thresholds or not all(0 <= value < 1 for value in self.thresholds):
            raise ValueError(f"Expected `thresholds` from 0 up to below 1, one or more, but got {self.thresholds}.")
        if len(self.unlabelled_weights) != 2:
            raise ValueError(f"Expected two `unlabelled_weights`, but got {self.unlabelled_weights}.")
        if not self.temperature > 0:
            raise ValueError(f"Expected `temperature` above 0, but got {self.temperature}.")
        if self.suspicious not in SUSPICIOUS:
            raise ValueError(f"Expected `suspicious` out of {', '.join(SUSPICIOUS)}, but got {self.suspicious!r}.")

    def train(
        self,
        build: Callable[[], nn.Module],
        images: Tensor,
        labels: Tensor,
        *,
        recipe: TrainingRecipe,
        seed: int,
        flags: Flags = None,
        state: Path | None = None,
        progress: EpochProgress = silent_epochs,
        accelerator: Accelerator | None = None,
    ) -> Trained:
        """Train Victim and Beneficiary; see `TrainingDefense`.

        The state is kept after each pass. Epochs are told through from the warm-up on, `passes` in all.

        Several processes share each batch and the look at all images, and end with the same networks; the first one
        keeps the state, in a folder that all can read.

        Args:
            build: as there; called twice, for convolutional networks.
            images: as there.
            labels: as there.
            recipe: of the Beneficiary, unless it has its own (`own_recipe`).
            seed: as there.
            flags: what a detector found; None lets the Victim find it.
            state: as there.
            progress: as there.
            accelerator: of several processes, each called with the same arguments; None is a single one.

        Raises:
            ValueError: `build` gives the same network again, flags that do not fit, or leave less than two images, a
                network without feature maps, or the state of another training.
            FloatingPointError: the Victim diverged.
        """
        run = _Run(self, build, images, labels, recipe=recipe, seed=seed, flags=flags, accelerator=accelerator)
        if state is not None and (state / STATE_FILE).exists():
            run.load(state)
        for epoch, loss in enumerate(run.losses, 1):
            progress(epoch, loss)
        for epoch in range(len(run.losses), self.passes(len(images), flags)):
            run.advance(epoch)
            if state is not None and run.parallel.is_first:
                run.save(state)
            progress(epoch + 1, run.losses[-1])
        model = run.beneficiary.model.eval()
        mix = run.beneficiary.mix
        return Trained(model, flagged=run.suspicious, scores=run.suspicion(), looks=run.looks, mix=mix)

    def passes(self, images: int, flags: Flags = None) -> int:
        """Count the passes of a training over so many images: those of the Victim's warm-up, then the epochs."""
        return self._warmup_passes(images, flags) + self.epochs

    def _warmup_passes(self, images: int, flags: Flags) -> int:
        return self._first_passes(images) + len(self.thresholds) if self._has_victim(flags) else 0

    def _first_passes(self, images: int) -> int:
        """Count the passes of the warm-up over all images."""
        return -(-self.warmup_steps // -(-images // self.batch))

    def _has_victim(self, flags: Flags) -> bool:
        """Tell whether a Victim is of use: to find poison, or to say what to suppress."""
        return flags is None or self.suspicious == "suppress"


class _Run:
    """One training: both networks, how the set is split, and how far it is."""

    def __init__(
        self,
        defense: VictimBeneficiary,
        build: Callable[[], nn.Module],
        images: Tensor,
        labels: Tensor,
        *,
        recipe: TrainingRecipe,
        seed: int,
        flags: Flags,
        accelerator: Accelerator | None,
    ) -> None:
        self.defense = defense
        self.images = images
        self.labels = labels
        self.flags = flags
        self.warmup = defense._warmup_passes(len(images), flags)
        self.losses: list[float] = []
        self.looks: list[Look] = []
        self.split = EntropySplit(defense.smoothing, defense.entropy_tail)
        self.suspicious = torch.zeros(len(images), dtype=torch.bool) if flags is None else _checked(flags, len(images))
        if defense.own_recipe:
            quarters = tuple(defense.epochs * quarter // 4 for quarter in (1, 2, 3))
            recipe = StepRecipe(epochs=defense.epochs, milestones=quarters, batch=defense.batch)
        self.about = {
            "defense": repr(defense),
            "recipe": repr(recipe),
            "set": _digest(images, labels, self.suspicious),
            "seed": seed,
        }
        models = build(), build()
        if models[0] is models[1]:
            raise ValueError("Expected a new network from each call of `build`, but got the same one twice.")
        self.parallel = DataParallel(accelerator)
        for model in models:
            self.parallel.copy_first(model)
        self.generator = torch.Generator().manual_seed(seed)
        self.victim = Victim(models[0], batch=defense.batch, generator=self.generator, parallel=self.parallel)
        self.beneficiary = Beneficiary(
            models[1],
            recipe,
            classes=self.victim.logits(images[:1]).shape[1],
            epochs=defense.epochs,
            images=len(images),
            batch=defense.batch,
            mix_threshold=defense.mix_threshold,
            generator=self.generator,
            parallel=self.parallel,
        )

    def advance(self, number: int) -> None:
        """Make pass `number`, from 0: one of the warm-up, or an epoch of the Beneficiary with what follows it."""
        self.losses.append(self._warm_up(number) if number < self.warmup else self._learn(number - self.warmup + 1))

    def _warm_up(self, number: int) -> float:
        """Let the Victim learn all images first, then the suspicious ones, once for each threshold."""
        thresholds, later = self.defense.thresholds, number - self.defense._first_passes(len(self.images))
        if later >= 0:
            self._look(thresholds[later], after=number)
        everything = self.flags is None and later < 0
        loss = self._victim_learns(torch.ones_like(self.suspicious) if everything else self.suspicious)
        if number == self.warmup - 1:
            self._look(thresholds[-1], after=number + 1)
        return loss

    def _learn(self, epoch: int) -> float:
        """Let the Beneficiary learn, `epoch` from 1, then the Victim, and split the set anew."""
        defense, suspects = self.defense, None
        if epoch > defense.clean_epochs and defense.suspicious != "drop":
            suspects = Suspects(
                rows=self.suspicious.nonzero().flatten(),
                weight=defense.unlabelled_weights[epoch > defense.weight_rise],
                victim=self.victim if defense.suspicious == "suppress" else None,
                temperature=defense.temperature,
                distrusted=self.labels if defense.suspicious == "correct" else None,
            )
        credible = (~self.suspicious).nonzero().flatten()
        loss = self.beneficiary.learn(self.images, self.labels, credible, suspects)
        if self.warmup and (epoch > defense.clean_epochs or epoch % defense.resplit_every == 0):
            self._victim_learns(self.suspicious)
            self._look(defense.thresholds[-1], after=self.warmup + epoch)
        return loss

    def _victim_learns(self, chosen: Tensor) -> float:
        return self.victim.learn(self.images, self.labels, chosen.nonzero().flatten())

    def _look(self, threshold: float, *, after: int) -> None:
        """Split the set by the Victim's entropies, unless a detector has split it."""
        if self.flags is not None:
            return
        logits = self.parallel.of_each(self.victim.logits, self.images).cpu()
        if not logits.isfinite().all():
            raise FloatingPointError("The Victim's scores are not finite: its training diverged. Look at the images.")
        self.suspicious = self.split.look(logits, threshold)
        self.looks.append(Look(after, self.suspicious, self.split.suspicion))

    def suspicion(self) -> Tensor | None:
        """Give the score of each image: the Victim's, or the detector's; None where there are flags alone."""
        if self.flags is None:
            return self.split.suspicion
        return self.flags.scores if isinstance(self.flags, DetectionReport) else None

    def save(self, folder: Path) -> None:
        """Write all that the rest of the training depends on."""
        tensors = {"suspicious": self.suspicious, "generator": self.generator.get_state()}
        if self.split.entropy is not None:
            tensors["entropy"] = self.split.entropy
        if self.looks:
            tensors["looks.flagged"] = torch.stack([look.flagged for look in self.looks])
            tensors["looks.scores"] = torch.stack([look.scores for look in self.looks])
        for name, network in (("victim", self.victim), ("beneficiary", self.beneficiary)):
            tensors |= {f"{name}.{key}": value for key, value in network.state().items()}
        looks = [look.epoch for look in self.looks]
        save_state(folder, tensors, {"about": self.about, "losses": self.losses, "looks": looks})

    def load(self, folder: Path) -> None:
        """Take back what `save` wrote.

        Raises:
            ValueError: the state of another training.
        """
        tensors, record = load_state(folder)
        if record.get("about") != self.about:
            raise ValueError(
                f"Expected the state of this training in {folder}, {self.about}, but got that of another: "
                f"{record.get('about')}. Take another folder."
            )
        self.losses = record["losses"]
        self.suspicious = tensors["suspicious"]
        self.split.entropy = tensors.get("entropy")
        if looks := part_of(tensors, "looks"):
            self.looks = [Look(*one) for one in zip(record["looks"], looks["flagged"], looks["scores"], strict=True)]
        self.generator.set_state(tensors["generator"])
        self.victim.load_state(part_of(tensors, "victim"))
        epochs = max(0, len(self.losses) - self.warmup)
        self.beneficiary.load_state(part_of(tensors, "beneficiary"), epochs=epochs)


def _checked(flags: DetectionReport | Tensor, count: int) -> Tensor:
    """Give the flags of a split: (N,) bool, on the CPU.

    Raises:
        ValueError: they are none, or of another set, or leave less than two images.
    """
    found = (flags.flagged if isinstance(flags, DetectionReport) else flags).cpu()
    if found.dtype != torch.bool:
        raise ValueError(
            f"Expected flags of dtype bool, but got {found.dtype}. Choose a threshold: scores > threshold."
        )
    if found.shape != (count,):
        raise ValueError(f"Expected a flag for each of {count} images, but got shape {tuple(found.shape)}.")
    if int((~found).sum()) < 2:
        raise ValueError(
            f"Expected two or more images that are not flagged, to learn from, but {int(found.sum())} of {count} are "
            "flagged. Raise the detector's threshold."
        )
    return found


def _digest(*tensors: Tensor) -> str:
    """Name a set by its content."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]

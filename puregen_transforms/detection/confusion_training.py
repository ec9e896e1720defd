"""Confusion Training (Qi et al. 2023): a network made to misread clean images still fits poison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.confusion_rounds import (
    ConfusionTask,
    Round,
    confuse,
    distill,
    generator_of,
    measure,
    pretrain,
    seed_of,
)
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.likelihood_ratio import classes_at_risk, likelihood_ratio
from puregen_transforms.detection.report import DetectionReport, count_by_class
from puregen_transforms.detection.reserved import checked_reserve
from puregen_transforms.functional.images import size_of
from puregen_transforms.models.classifiers import CLASSIFIERS, build_classifier
from puregen_transforms.train.checkpoint import kept_tensors
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

LEAST_IN_CLASS = 20
"""Images from which on a class is tested; with fewer, the published code stops (a tenth of a class must be two)."""


@dataclass(frozen=True, kw_only=True)
class ConfusionTraining(Detector):
    """Flag images that a network still fits while clean images with wrong labels make it forget all others.

    In each round a network learns the suspects in question, then reserved clean images with rotating wrong labels and,
    now and then, suspects with theirs. What it fits best afterwards is in question in the next round. After the last
    round, the images of a class that it still predicts are isolated; they are flagged where a likelihood-ratio test on
    their features finds that they are a cluster of their own.

    A score is m / (1 + |m|), where m is the margin of the given label in the last confused network (its score less
    the highest other one), and 2 more where an image is flagged: above 1 if and only if it is flagged. The facts of a
    class are `likelihood_ratio` (at most 1e9; None where the class is not tested), `isolated`, and `tested`.

    Classes of fewer than 20 images are not tested, and nothing in them is flagged; nor are images without a label.
    In a set without poison the class with the highest ratio is still flagged from 1.5 on: expect false alarms.
    Poison in the reserved set is unlearned with it: images with its trigger lose what isolates them, and are missed.

    Args:
        network: that is trained; see `build_classifier`.
        base_epochs: of the base model, whose predictions decide the wrong labels; not needed where the detector is
            given a network that was trained on the set.
        pretrain_epochs: by round.
        iterations: of confusion, by round.
        confusion_weights: λ, by round: the confusion loss counts λ - 1 times as much as the inspection loss.
        learning_rates: of confusion, by round.
        inspect_every: by round, iterations of which one also learns suspects.
        shares: of all images that stay in question after each round but the last.
        floors: after each round but the last, one image in so many of each class stays in question.
        batch: reserved images in an iteration of confusion, and suspects.
        pretrain_batch: images a step of pretraining.
        pretrain_rate: learning rate of pretraining.
        stop_at_chance: end a round's confusion once the accuracy on the reserved set is at chance or below; but the
            last round's, which decides what is isolated, never ends early.
        threshold: likelihood ratio above which what is isolated in a class is flagged.
        highest_threshold: the lower one, for the class with the highest ratio.
    """

    network: str = "resnet18"
    base_epochs: int = 100
    pretrain_epochs: tuple[int, ...] = (100, 100, 40, 40, 40, 40)
    iterations: tuple[int, ...] = (6000, 6000, 6000, 6000, 2000, 2000)
    confusion_weights: tuple[float, ...] = (20, 20, 20, 30, 30, 15)
    learning_rates: tuple[float, ...] = (1e-3, 1e-3, 1e-3, 1e-2, 1e-2, 1e-2)
    inspect_every: tuple[int, ...] = (2, 2, 2, 2, 2, 2)
    shares: tuple[float, ...] = (1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100)
    floors: tuple[int, ...] = (50, 50, 50, 50, 100)
    batch: int = 32
    pretrain_batch: int = 32
    pretrain_rate: float = 0.01
    stop_at_chance: bool = False
    threshold: float = 2.0
    highest_threshold: float = 1.5

    needs = frozenset({"labels", "reserved"})
    uses = frozenset({"network"})
    least_classes = 2
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "smoke": {
            "network": "tiny",
            "base_epochs": 30,
            "pretrain_epochs": (10, 10, 5, 5, 5, 5),
            "iterations": (60, 60, 60, 60, 60, 150),
            "learning_rates": (2e-2,) * 6,
        },
        "cpu": {
            "network": "small",
            "base_epochs": 12,
            "pretrain_epochs": (18, 18, 15, 15, 15, 15),
            "iterations": (1500, 1500, 1500, 1500, 500, 500),
            "learning_rates": (4e-3, 4e-3, 4e-3, 4e-2, 4e-2, 4e-2),
            "batch": 128,
            "stop_at_chance": True,
        },
        "paper": {},
    }

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        rounds = len(self.iterations)
        by_round = ("pretrain_epochs", "iterations", "confusion_weights", "learning_rates", "inspect_every")
        for name, count in {**dict.fromkeys(by_round, rounds), "shares": rounds - 1, "floors": rounds - 1}.items():
            values = getattr(self, name)
            if len(values) != count or not all(value > 0 for value in values):
                raise ValueError(
                    f"Expected {count} numbers above 0 as `{name}`, as there are {rounds} rounds, but got {values}."
                )
        for name in ("base_epochs", "batch", "pretrain_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected `{name}` of 1 or more, but got {getattr(self, name)}.")
        if self.network not in CLASSIFIERS:
            raise ValueError(f"Expected a `network` out of {', '.join(CLASSIFIERS)}, but got {self.network!r}.")

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Confuse a network, and test each class.

        Raises:
            ValueError: images of several sizes, fewer than two classes, or a reserved set that does not fit: other
                classes, another image size, or images that are among the suspects.
            FloatingPointError: a training diverged.
        """
        images, labels, reserved = suspects.tensor(), suspects.labels, suspects.reserved
        assert labels is not None and reserved is not None  # as `needs` says
        labelled = (labels >= 0).nonzero().flatten()
        classes = _count_classes(labels, suspects.class_names, reserved)
        reserved = checked_reserve(reserved, images, classes, suspects.class_names)
        state = None if suspects.state is None else suspects.state / self._digest(suspects, images, labels, reserved)
        scores, features = self._confused(suspects, images[labelled], labels[labelled], reserved, classes, state)
        return self._report(suspects, labels, labelled, scores, features)

    def _confused(
        self,
        suspects: SuspectSet,
        images: Tensor,
        labels: Tensor,
        reserved: ImageSet,
        classes: int,
        state: Path | None,
    ) -> tuple[Tensor, Tensor]:
        """Run all rounds; give scores and features of the last confused network."""
        device = suspects.device

        def build(seed: int) -> nn.Module:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                return build_classifier(self.network, classes, image_size=size_of(images)).to(device)

        images, own = images.to(device), labels.to(device)
        clean = reserved.images.to(device)

        def predict(folder: Path | None) -> dict[str, Tensor]:
            model = suspects.network
            if model is None:
                model = self._base_model(build, images, own, suspects, folder)
            found, _ = measure(model, clean)
            if found.shape[1] != classes:
                raise ValueError(
                    f"Expected a network with {classes} scores, one for each class, but got {found.shape[1]}."
                )
            return {"predicted": found.argmax(1)}

        task = ConfusionTask(
            images=images,
            labels=own,
            reserved=clean,
            reserved_labels=reserved.labels.to(device),
            predicted=kept_tensors(state and state / "base", predict)["predicted"].to(device),
            classes=classes,
            build=build,
            seed=suspects.seed,
            progress=suspects.progress,
        )
        found = {"rows": torch.arange(len(images))}
        for settings in self._rounds(classes):
            run = partial(self._round, task, settings, found)
            found = kept_tensors(state and state / f"round-{settings.number}", run)
        return found["scores"], found["features"]

    def _base_model(
        self,
        build: Callable[[int], nn.Module],
        images: Tensor,
        labels: Tensor,
        suspects: SuspectSet,
        state: Path | None,
    ) -> nn.Module:
        """Train a network on all suspects in the usual way."""
        model = build(seed_of(suspects.seed, "base"))
        losses = train_classifier(
            model,
            images,
            labels,
            generator=generator_of(suspects.seed, "base"),
            recipe=FastRecipe(epochs=self.base_epochs),
            state=state and state / "training",
        )
        for done, _ in enumerate(losses, 1):
            suspects.progress("training the base model", done, self.base_epochs)
        return model

    def _round(
        self, task: ConfusionTask, settings: Round, before: Mapping[str, Tensor], state: Path | None
    ) -> dict[str, Tensor]:
        """Pretrain, confuse, and choose the rows of the next round; the last gives scores and features instead."""
        model = task.build(seed_of(task.seed, "pretraining"))
        weights = {name.removeprefix("model."): value for name, value in before.items() if name.startswith("model.")}
        if weights:
            model.load_state_dict(weights)
        rows = before["rows"]
        pretrain(model, task, settings, rows, state and state / "pretraining")
        pretrained = {f"model.{name}": value.detach().cpu().clone() for name, value in model.state_dict().items()}
        confuse(model, task, settings, rows, state and state / "confusion")
        scores, features = measure(model, task.images)
        if settings.last:
            return {"scores": scores, "features": features}
        labels = task.labels.cpu()
        losses = F.cross_entropy(scores, labels, reduction="none")
        share, floor = self.shares[settings.number], self.floors[settings.number]
        return {**pretrained, "rows": distill(losses, labels, share=share, floor=floor)}

    def _rounds(self, classes: int) -> list[Round]:
        last = len(self.iterations) - 1
        return [
            Round(
                number=number,
                last=number == last,
                epochs=self.pretrain_epochs[number],
                iterations=self.iterations[number],
                confusion_weight=self.confusion_weights[number],
                learning_rate=self.learning_rates[number],
                inspect_every=self.inspect_every[number],
                batch=self.batch,
                pretrain_batch=self.pretrain_batch,
                pretrain_rate=self.pretrain_rate,
                stop_at=1 / classes if self.stop_at_chance and number < last else None,
            )
            for number in range(last + 1)
        ]

    def _report(
        self, suspects: SuspectSet, labels: Tensor, labelled: Tensor, scores: Tensor, features: Tensor
    ) -> DetectionReport:
        """Test each class, and flag what is isolated in those at risk."""
        own = labels[labelled]
        margins = margins_of(scores, own)
        counts = torch.bincount(own)
        ratios = {
            label: likelihood_ratio(features[own == label], margins[own == label] > 0)
            for label in own.unique().tolist()
            if counts[label] >= LEAST_IN_CLASS
        }
        risky = classes_at_risk(ratios, threshold=self.threshold, highest_threshold=self.highest_threshold)
        found = (margins > 0) & torch.isin(own, torch.tensor(sorted(risky), dtype=torch.int64))
        suspicion, flagged = torch.full((len(labels),), -1.0), torch.zeros(len(labels), dtype=torch.bool)
        suspicion[labelled] = F.softsign(margins) + 2.0 * found
        flagged[labelled] = found
        facts = {
            label: {
                "likelihood_ratio": ratios.get(label),
                "isolated": float((margins[own == label] > 0).sum()),
                "tested": float(label in ratios),
            }
            for label in own.unique().tolist()
        }
        return DetectionReport(
            scores=suspicion,
            flagged=flagged,
            classes=count_by_class(flagged, labels, suspects.class_names, facts),
        )

    def _digest(self, suspects: SuspectSet, images: Tensor, labels: Tensor, reserved: ImageSet) -> str:
        """Name the search by all that decides it, so that the state of another one is never taken for its own."""
        about = {**asdict(self), "version": self.version, "seed": suspects.seed, "shape": list(images.shape)}
        digest = hashlib.sha256(json.dumps(about).encode())
        for part in (images, labels, reserved.images, reserved.labels):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        for name, values in () if suspects.network is None else suspects.network.state_dict().items():
            digest.update(name.encode() + values.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]


def margins_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute by how much the score of the given label exceeds the highest other: (N, classes), (N,) -> (N,)."""
    own = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return own[:, 0] - others.amax(1)


def _count_classes(labels: Tensor, class_names: tuple[str, ...], reserved: ImageSet) -> int:
    present = labels[labels >= 0].unique()
    if len(present) < 2:
        raise ValueError(
            f"Expected labels of two or more classes, as clean images are given wrong ones, but got {len(present)}."
        )
    return max(int(present.max()) + 1, len(class_names) or len(reserved.class_names))

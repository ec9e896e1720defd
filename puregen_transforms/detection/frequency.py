"""The frequency detector: triggers leave traces among the high frequencies, which a small network learns to see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from puregen_transforms._progress import Progress
from puregen_transforms.detection.activations import batches
from puregen_transforms.detection.classes import all_alike, matching_reserved
from puregen_transforms.detection.detector import Detector, SuspectSet
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.statistics import clean_limit, mixed_limit
from puregen_transforms.detection.trigger_likes import add_trigger_likes
from puregen_transforms.models.classifiers import small_classifier

LEAST_IMAGES = 20
"""Clean images that can be parted into two halves to learn."""

_BATCH = 32
"""Clean images of an update, which sees each of them with something added, too."""


@dataclass(frozen=True, kw_only=True)
class Frequency(Detector):
    """Flag images whose discrete cosine transform looks like that of images with something added.

    Zeng et al. (2021): a network learns to tell the transforms of clean images from those of the same images with
    white blocks, colored blocks, noise, shadows or other images added, and is then asked about the set. It needs no
    victim and no labels. The paper's network, a convolutional one of six layers, is trained once on CIFAR-10; here two
    are trained for each search, as deep and narrower, on a half of the reserved set each; without a reserved set, on a
    half of the set itself, where poison counts as clean, and a trigger that is common is learned as such. No image is
    scored by a network that learned it as clean.

    The paper flags a probability above a half, which leaves false alarms to chance; here the limit is raised until
    clean images exceed it as rarely as asked for. Published weak points: smooth triggers without high frequencies,
    warps, and sets whose frequencies are not those that were learned.

    A score is by how much the networks' log-odds exceed the limit.

    Args:
        false_alarms: share of clean images that may be flagged; None flags whatever has log-odds above 0, as
            published.
        epochs: passes of each network over its half of the clean images.
        least_steps: updates of each at least, however few images there are.
        width: channels of the network's first layer.
    """

    uses: ClassVar[frozenset[str]] = frozenset({"reserved"})

    false_alarms: float | None = 0.01
    epochs: int = 20
    least_steps: int = 100
    width: int = 8

    def __post_init__(self) -> None:
        if self.false_alarms is not None and not 0 < self.false_alarms < 0.5:
            raise ValueError(f"Expected a share of false alarms below 0.5, or None, but got {self.false_alarms}.")
        if min(self.epochs, self.least_steps, self.width) < 1:
            raise ValueError(
                f"Expected at least one epoch, step and channel, but got epochs={self.epochs}, "
                f"least_steps={self.least_steps} and width={self.width}."
            )

    def detect(self, suspects: SuspectSet) -> DetectionReport:
        """Train both networks, and ask them about every image.

        Raises:
            ValueError: too few images, of several sizes, or a reserved set of other images.
        """
        images = suspects.tensor()
        clean = images if suspects.reserved is None else matching_reserved(suspects).images
        if len(clean) < LEAST_IMAGES:
            which = "images, as there is no `reserved` set" if clean is images else "images in `reserved`"
            raise ValueError(f"Expected at least {LEAST_IMAGES} {which}, but got {len(clean)}.")
        if all_alike(clean):
            return DetectionReport(scores=torch.zeros(len(images)), flagged=torch.zeros(len(images), dtype=torch.bool))
        generator = torch.Generator().manual_seed(suspects.seed)
        order = torch.randperm(len(clean), generator=generator)
        halves = order[::2], order[1::2]
        first, second = (
            self._train(clean[half], suspects.device, suspects.progress, generator=generator) for half in halves
        )
        known = torch.zeros(len(clean))
        known[halves[1]], known[halves[0]] = first.log_odds(clean[halves[1]]), second.log_odds(clean[halves[0]])
        odds = known if clean is images else (first.log_odds(images) + second.log_odds(images)) / 2
        limit = 0.0
        if self.false_alarms is not None:
            limit_of = mixed_limit if clean is images else clean_limit
            limit = max(limit, limit_of(known, self.false_alarms))
        return DetectionReport(scores=odds - limit, flagged=odds > limit)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _train(
        self, clean: Tensor, device: torch.device, progress: Progress, *, generator: torch.Generator
    ) -> FrequencyNetwork:
        """Learn clean images against the same with something added."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            classifier = small_classifier(2, self.width).to(device)
        network = FrequencyNetwork(classifier, cosine_transform(clean).square().mean(0).sqrt(), device)
        steps = max(self.least_steps, self.epochs * math.ceil(len(clean) / _BATCH))
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        labels = torch.arange(2, device=device).repeat_interleave(min(_BATCH, len(clean)))
        classifier.train()
        for step in range(steps):
            progress("learning frequencies", step, steps)
            chosen = clean[torch.randperm(len(clean), generator=generator)[:_BATCH]]
            added = add_trigger_likes(chosen, clean, generator=generator)
            loss = F.cross_entropy(network(torch.cat([chosen, added])), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        progress("learning frequencies", steps, steps)
        classifier.eval()
        return network


class FrequencyNetwork:
    """A classifier of cosine transforms, each coefficient on its usual scale.

    Args:
        classifier: (n, 3, H, W) -> (n, 2).
        scale: (3, H, W) usual size of the coefficients.
        device: where the classifier is.
    """

    def __init__(self, classifier: nn.Module, scale: Tensor, device: torch.device) -> None:
        self.classifier, self.device = classifier, device
        self.scale = scale.clamp_min(1e-3 * float(scale.max()) + 1e-12)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits of (n, 3, H, W) uint8 images."""
        scaled = cosine_transform(images) / self.scale
        return self.classifier(scaled.to(self.device).contiguous(memory_format=torch.channels_last))

    @torch.no_grad()
    def log_odds(self, images: Tensor) -> Tensor:
        """Compute by how much something is likelier to have been added than not: (n,) float32, on the CPU."""
        logits = torch.cat([self(part) for part in batches(images)]).float().cpu()
        return logits[:, 1] - logits[:, 0]


def cosine_transform(images: Tensor) -> Tensor:
    """Compute the orthonormal two-dimensional DCT-II of each channel: (N, C, H, W) -> (N, C, H, W) float32."""
    rows, columns = (cosines(side) for side in images.shape[2:])
    return rows @ images.float() @ columns.T


def cosines(side: int) -> Tensor:
    """Make the matrix of the orthonormal DCT-II: (side, side) float32, frequencies by places."""
    places = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * (places[None] + 0.5) * places[:, None] / side) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves.float()

"""The images that a benchmark stands on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import per_class, transfer_split
from puregen_transforms.evaluate.store import fingerprint
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.functional.jpeg import jpeg


@dataclass(frozen=True, eq=False)
class Sets:
    """Parts of a labeled image set, and other images.

    Args:
        train: what victims learn from scratch, and what feature extractors learn.
        test: what victims are judged on.
        transfer: the small set that a victim transfers to; no image is in `train`.
        targets: images for attacks on a transferring victim to aim at, in none of the others.
        public: of other classes, for attackers; None if there are none.
        about: where they are from, in words.
        natural_source: of the images that generators learn; None stands for `train`.
    """

    train: ImageSet
    test: ImageSet
    transfer: ImageSet
    targets: ImageSet
    public: ImageSet | None
    about: str
    natural_source: str | None = None

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hex names of the contents."""
        named = {"train": self.train, "test": self.test, "transfer": self.transfer, "targets": self.targets}
        if self.public is not None:
            named["public"] = self.public
        return {name: fingerprint(part.images, part.labels) for name, part in named.items()}

    @cached_property
    def natural(self) -> ImageSet:
        """What generators learn; read when it is asked for."""
        return self.train if self.natural_source is None else ImageSet.of(self.natural_source)

    def learned_in(self, scenario: str) -> ImageSet:
        """What the victim learns last, and an attacker poisons."""
        return self.train if scenario == "scratch" else self.transfer

    def targets_in(self, scenario: str) -> ImageSet:
        """What attacks on single images aim at."""
        return self.test if scenario == "scratch" else self.targets


def load_sets(
    train: str, test: str, public: str | None = None, natural: str | None = None, *, images_per_class: int
) -> Sets:
    """Sets from sources such as Parquet files; see `ImageSet.of`.

    Args:
        train: a training set with 4,850 or more images of each class.
        test: its test set.
        public: images of other classes, for attackers.
        natural: images of any classes, for generators to learn.
        images_per_class: of `train` for victims from scratch.

    Raises:
        FileNotFoundError, ValueError: as `ImageSet.of`; too few images of a class, or a test set of other classes.
    """
    full, judged_on = ImageSet.of(train), ImageSet.of(test)
    # By words or numbers alone, a set without an image of the last classes does not know of these.
    if judged_on.class_names != full.class_names[: len(judged_on.class_names)]:
        raise ValueError(
            f"Expected a test set with the classes {', '.join(full.class_names)} of the training set, in this order, "
            f"but got {', '.join(judged_on.class_names)}."
        )
    judged_on = replace(judged_on, class_names=full.class_names)
    split = transfer_split(full)
    chosen = per_class(full, 0, images_per_class)
    others = None if public is None else as_stored(ImageSet.of(public), chosen.size)
    about = f"{Path(train).name} ({images_per_class} of each class) and {Path(test).name}"
    about += "" if public is None else f", public: {Path(public).name}"
    return Sets(chosen, judged_on, split.fine_tune, split.targets, others, about, natural)


def demo_sets() -> Sets:
    """From the 200 packaged images: enough to see everything run, and for nothing else."""
    demo = load_demo()
    whole = ImageSet(demo.images, demo.labels, CLASSES)
    train, test = per_class(whole, 0, 12), per_class(whole, 12, 20)
    transfer, targets = per_class(whole, 12, 16), per_class(whole, 16, 20)
    return Sets(train, test, transfer, targets, train, "the 200 packaged images")


def as_stored(public: ImageSet, size: tuple[int, int]) -> ImageSet:
    """Public images as the training set's are: box-filtered to its size, then JPEG of quality 75.

    Otherwise a surrogate tells both sources apart by what compression left in one of them.
    """
    images = F.interpolate(public.images.float(), size=size, mode="area")
    return ImageSet(jpeg(to_pixels(images), 75), public.labels, public.class_names)

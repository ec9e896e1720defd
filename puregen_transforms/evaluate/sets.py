"""The images that a benchmark stands on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F

from puregen_transforms.data.demo import CLASSES, VEHICLES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.mapped import empty_images, parts_of
from puregen_transforms.data.splits import at_most_per_class, hold_out, per_class, transfer_split
from puregen_transforms.evaluate.presets import Scale
from puregen_transforms.evaluate.store import fingerprint
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.functional.jpeg import jpeg

RESERVED = 2000
"""Clean images that detectors may have, taken from the test set (Confusion Training's protocol)."""

_HELD_OUT = 0.25


@dataclass(frozen=True, eq=False)
class Sets:
    """Parts of a labeled image set, and other images.

    Args:
        train: what victims learn from scratch, and what feature extractors learn.
        test: what victims are judged on.
        about: where they are from, in words.
        transfer: the small set that a victim transfers to; no image is in `train`. None if there is none.
        targets: target images for attacks on a transferring victim, in none of the others.
        public: images of other classes, for attackers; None if there are none.
        reserved: clean images of the same classes, in none of the others, for detectors that need some.
        natural_source: of the images that generators learn; None stands for `train`.
    """

    train: ImageSet
    test: ImageSet
    about: str
    transfer: ImageSet | None = None
    targets: ImageSet | None = None
    public: ImageSet | None = None
    reserved: ImageSet | None = None
    natural_source: str | None = None

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hex names of the contents of the parts that are there."""
        parts = ("train", "test", "transfer", "targets", "public", "reserved")
        named = {name: part for name in parts if (part := getattr(self, name)) is not None}
        return {name: fingerprint(part.images, part.labels) for name, part in named.items()}

    @cached_property
    def natural(self) -> ImageSet:
        """What generators learn; read when it is asked for."""
        return self.train if self.natural_source is None else ImageSet.load(self.natural_source)

    def learned_in(self, scenario: str) -> ImageSet:
        """Give what the victim learns last, and an attacker poisons."""
        return self.train if scenario in ("scratch", "frozen") else _there(self.transfer)


def load_sets(
    train: str,
    test: str | None = None,
    public: str | None = None,
    natural: str | None = None,
    *,
    scale: Scale,
    needs: Collection[str] = (),
    size: int | None = None,
) -> Sets:
    """Read the images of a benchmark, in the forms that `ImageSet.load` takes.

    Args:
        train: a labelled training set, of any classes and size.
        test: its test set; None holds a quarter of each class of the training set out.
        public: images of other classes, for attackers.
        natural: images of any classes, for generators to learn.
        scale: how many images are used.
        needs: of the protocol: "public", "transfer", "natural", "reserved".
        size: resizes images to so many pixels; None takes them as they are. Public images are resized in any case.

    Raises:
        FileNotFoundError, ValueError: as `ImageSet.load`; a test set of other classes, or images that are needed and
            not there.
    """
    full = ImageSet.load(train, size=size)
    about = Path(train).name
    if test is None:
        full, judged_on = hold_out(full, _HELD_OUT)
        about += f" (a quarter of each class held out as test set, {len(judged_on)} images)"
    else:
        judged_on = ImageSet.load(test, size=size).with_classes(full.class_names, what="test set")
    if len(full.class_names) < 2:
        raise ValueError(f"Expected images of two or more classes in {train!r}, but got {full.class_names[0]!r} alone.")
    reserved = None
    if "reserved" in needs:
        judged_on, reserved = _reserve(judged_on)
    transfer = targets = None
    if "transfer" in needs:
        try:
            split = transfer_split(full, pretrain=scale.pretrain, fine_tune=scale.fine_tune)
        except ValueError as error:
            raise ValueError(
                f"{error} This protocol trains feature extractors on {scale.pretrain} images of each class, transfers "
                f"to {scale.fine_tune}, and takes its target images from the rest. Take a larger set, or another "
                "protocol; `puregen evaluate list` says what each needs."
            ) from error
        transfer, targets = split.fine_tune, split.targets
    chosen = at_most_per_class(full, scale.images_per_class)
    others = None if public is None else as_stored(ImageSet.load(public, size=size), chosen)
    if others is None and "public" in needs:
        if scale.name != "smoke":
            raise ValueError(
                "Expected images of other classes, which the attacker learns from, but got none. Name a set of them "
                "with --public."
            )
        demo = load_demo()
        others = as_stored(ImageSet(demo.images, demo.labels, CLASSES), chosen)
    counts = torch.bincount(chosen.labels, minlength=len(chosen.class_names))
    fewest, most = int(counts.min()), int(counts.max())
    about += f" ({most if fewest == most else f'{fewest} to {most}'} of each class)"
    about += "" if test is None else f" and {Path(test).name}"
    about += "" if public is None else f", public: {Path(public).name}"
    return Sets(chosen, judged_on, about, transfer, targets, others, reserved, natural)


def demo_sets(scale: Scale, needs: Collection[str] = ()) -> Sets:
    """Part the 200 packaged images, as vehicles and animals: two classes that a tiny network learns in seconds.

    Args:
        scale: how many images are used.
        needs: of the protocol; see `load_sets`. Public images are those outside the test set, by their own ten classes.
    """
    demo = load_demo()
    public, judged_on = hold_out(ImageSet(demo.images, demo.labels, CLASSES), _HELD_OUT)
    full, test = _vehicles_and_animals(public), _vehicles_and_animals(judged_on)
    test, reserved = _reserve(test) if "reserved" in needs else (test, None)
    split = transfer_split(full, pretrain=scale.pretrain, fine_tune=scale.fine_tune)
    train = per_class(full, 0, scale.images_per_class)
    about = f"packaged images: {len(train)} vehicles and animals to learn, {len(test)} to judge"
    return Sets(train, test, about, split.fine_tune, split.targets, public, reserved)


def _vehicles_and_animals(images: ImageSet) -> ImageSet:
    vehicle = torch.isin(images.labels, torch.tensor([CLASSES.index(name) for name in VEHICLES]))
    return ImageSet(images.images, (~vehicle).long(), ("vehicle", "animal"))


def as_stored(public: ImageSet, like: ImageSet) -> ImageSet:
    """Bring public images to the form of the training set's: box-filtered to its size, and compressed as those are.

    Otherwise a surrogate tells both sources apart by what compression left in one of them.
    """
    if like.size == public.size and like.jpeg_quality is None:
        return public
    images = empty_images(len(public), like.size)
    for part in parts_of(images):
        images[part] = to_pixels(F.interpolate(public.images[part].float(), size=like.size, mode="area"))
        if like.jpeg_quality is not None:
            images[part] = jpeg(images[part], like.jpeg_quality)
    return ImageSet(images, public.labels, public.class_names)


def _reserve(test: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Part a test set at random: what is left to judge victims on, and the reserved set (at most a half)."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    count = min(RESERVED, len(test) // 2)
    return test.subset(order[count:].sort().values), test.subset(order[:count].sort().values)


def _there(part: ImageSet | None) -> ImageSet:
    if part is None:
        raise ValueError("Expected images for transfer, but these sets were made for victims from scratch alone.")
    return part

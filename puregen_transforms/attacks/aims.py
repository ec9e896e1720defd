"""State what an attacker wants of images that carry a trigger: which of them are attacked, and as what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from puregen_transforms.attacks.trigger import Trigger

ALL_TO_ONE, ALL_TO_ALL, UNTARGETED = GOALS = ("all_to_one", "all_to_all", "untargeted")
"""What triggered images are to be taken for: one target class; each the class after its own; any class but its own."""


def check_goal(goal: str) -> None:
    """Refuse what is none of `GOALS`, with a ValueError."""
    if goal not in GOALS:
        raise ValueError(f"Expected a goal out of {', '.join(GOALS)}, but got {goal!r}.")


def next_classes(labels: Tensor, classes: int) -> Tensor:
    """Give the class after each label, the first after the last."""
    return (labels + 1) % classes


def other_classes(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Draw for each label another class at random."""
    return (labels + torch.randint(1, classes, (len(labels),), generator=generator)) % classes


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """State what one trigger is to do at test time.

    Args:
        trigger: put on test images.
        goal: out of `GOALS`.
        target_class: that the images are to be misread as; None where the goal is not one class.
        source_class: the only class whose triggered images are attacked; None is every class.
    """

    trigger: Trigger
    goal: str = ALL_TO_ONE
    target_class: int | None = None
    source_class: int | None = None

    def check(self, classes: int) -> None:
        """Raise ValueError unless the aim is one at so many classes; 0 stands for a number that is not known."""
        check_goal(self.goal)
        if (self.target_class is None) == (self.goal == ALL_TO_ONE):
            raise ValueError(f"Expected a target class for the goal {ALL_TO_ONE} and no other, but got {self}.")
        for number in (self.target_class, self.source_class):
            if number is not None and not (
                isinstance(number, int) and number >= 0 and (not classes or number < classes)
            ):
                raise ValueError(f"Expected a class below {classes}, but got {number!r}.")
        if self.goal != ALL_TO_ONE and classes < 2:
            raise ValueError(f"Expected at least 2 classes for the goal {self.goal}, but got {classes}.")

    def __repr__(self) -> str:
        return f"Aim({self.goal}, target class {self.target_class}, source class {self.source_class})"

    def attacked(self, labels: Tensor) -> Tensor:
        """Choose the test images that are attacked, by their true labels (N,): a mask (N,)."""
        if self.source_class is not None:
            return labels == self.source_class
        return torch.ones_like(labels, dtype=torch.bool) if self.target_class is None else labels != self.target_class

    def triggered(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Put the trigger on the attacked ones of (N, 3, H, W) uint8 images: they and their true labels."""
        chosen = self.attacked(labels)
        return self.trigger(images[chosen]), labels[chosen]

    def wanted(self, labels: Tensor, classes: int) -> Tensor | None:
        """Give the class as which each attacked image is to be misread; None is any but its own.

        Args:
            labels: (M,) true labels of attacked images.
            classes: how many there are.
        """
        if self.goal == UNTARGETED:
            return None
        if self.target_class is None:
            return next_classes(labels, classes)
        return torch.full_like(labels, self.target_class)

"""Declare an attack: its settings, what the attacker needs besides the training set, and the function that crafts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.attacks.config import AttackConfig, AvailabilityConfig
from puregen_transforms.attacks.crafting import Crafted
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.models.ebm import EBM

NEEDS = {
    "public": "images that the attacker has besides the training set (`public`, --public)",
    "targets": "images outside the training set, one of which is to be misread (`targets`, --targets)",
    "energy": "the energy network of the defense that the attacker knows (`energy`, --energy)",
}
"""By name, what an attacker may need besides the training set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacker:
    """Hold what an attacker has besides the training set and the settings.

    Args:
        seed: of all that is random.
        given: images and networks by name, out of `NEEDS`.
        device: where to train and to optimize.
        progress: told what is being done.
        train: makes surrogates, such as one that keeps them; None trains them.
    """

    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device | str = "cpu"
    progress: Progress = silent
    train: Callable[[Surrogates], list[nn.Module]] | None = None

    @property
    def public(self) -> ImageSet:
        """Give the images that the attacker has besides the training set."""
        return self.get("public")

    @property
    def targets(self) -> ImageSet:
        """Give the images outside the training set, one of which is the target image."""
        return self.get("targets")

    @property
    def energy(self) -> EBM:
        """Give the energy network of the defense."""
        return self.get("energy")

    def get(self, name: str) -> Any:
        """Give one of `NEEDS`.

        Raises:
            ValueError: the attacker does not have it.
        """
        if self.given.get(name) is None:
            raise ValueError(f"Expected {NEEDS[name]}, which this attack needs, but got none.")
        return self.given[name]

    def generator(self) -> torch.Generator:
        """Make a generator from the seed."""
        return torch.Generator().manual_seed(self.seed)

    def networks(self, surrogates: Surrogates) -> list[nn.Module]:
        """Train surrogates, or get those that are kept: on the device, in evaluation mode."""
        if self.train is not None:
            return self.train(surrogates)
        return surrogates.train(seed=self.seed, device=self.device, progress=self.progress)


Config = TypeVar("Config", bound=AttackConfig)


@dataclass(frozen=True)
class Attack(Generic[Config]):
    """Describe one attack.

    Args:
        name: under which it is registered.
        config: its settings.
        function: (training set, settings, attacker) -> what is crafted.
        needs: what else the attacker must have, out of `NEEDS`; "energy" is needed where the settings say that the
            attacker knows the defense.
        clean_label: whether all labels stay true; otherwise it is a dirty-label attack.
        labels_only: whether all images stay as they are.
        optimizes: whether it trains or optimizes, on the attacker's device; its seed should then be none of a victim's.
    """

    name: str
    config: type[Config]
    function: Callable[[ImageSet, Config, Attacker], Crafted]
    needs: frozenset[str] = frozenset()
    clean_label: bool = False
    labels_only: bool = False
    optimizes: bool = False

    def needed(self, config: Config) -> frozenset[str]:
        """Name what the attacker must have, with these settings."""
        return self.needs if config.knows_defense else self.needs - {"energy"}

    def craft(self, dataset: ImageSet, config: Config, attacker: Attacker) -> Poison:
        """Craft the poison for a training set.

        Args:
            dataset: the training set to poison.
            config: settings.
            attacker: what else the attacker has.

        Raises:
            ValueError: settings that do not fit the set, or something missing that the attack needs.
        """
        for name in sorted(self.needed(config)):
            attacker.get(name)
        return self.function(dataset, config, attacker).to_poison(self.name, dataset, config, seed=attacker.seed)

    @property
    def availability(self) -> bool:
        """Tell whether it attacks all that is learned, with neither trigger nor target: success is a low accuracy."""
        return issubclass(self.config, AvailabilityConfig)

    @property
    def summary(self) -> str:
        """Give the first line of its module's documentation."""
        return (inspect.getdoc(inspect.getmodule(self.function)) or "").split("\n")[0]

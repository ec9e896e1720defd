"""Every attack by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from puregen_transforms.attacks import (
    adaptive_blend,
    adaptive_patch,
    badnets,
    blended,
    clean_label,
    narcissus,
    sig,
    tact,
    trojan,
    wanet,
)
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.image_set import ImageSet

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        config: its settings.
        function: (dataset, settings, seed=...) -> poison, with more arguments if it `learns`.
        changes_labels: whether a poisoned row's label may change; such an attack is not clean-label.
        learns: whether it trains networks, and so takes `device` and `progress`.
        needs_public: whether it learns from `public` images, too.
    """

    config: type[AttackConfig]
    function: Callable[..., Poison]
    changes_labels: bool = True
    learns: bool = False
    needs_public: bool = False

    def craft(
        self,
        dataset: ImageSet,
        config: AttackConfig,
        *,
        seed: int = 0,
        public: ImageSet | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = lambda what, done, of: None,
    ) -> Poison:
        """Craft the poison.

        Args:
            dataset: the training set to poison.
            config: settings.
            seed: of all that is random.
            public: images of other classes, for attacks that learn.
            device: where they train.
            progress: told what they do.

        Raises:
            ValueError: settings that do not fit the set; or no public images, where they are needed.
        """
        options: dict[str, Any] = {"device": device, "progress": progress} if self.learns else {}
        if self.needs_public:
            options["public"] = public
        if self.needs_public and public is None:
            raise ValueError(
                "Expected public images of other classes, from which this attack learns, but got none. "
                "Name a data set with `public` (--public)."
            )
        return self.function(dataset, config, seed=seed, **options)

    @property
    def summary(self) -> str:
        """One line."""
        return (inspect.getdoc(inspect.getmodule(self.function)) or "").split("\n")[0]


ATTACKS: dict[str, Attack] = {
    "badnets": Attack(badnets.BadNetsConfig, badnets.craft),
    "blended": Attack(blended.BlendedConfig, blended.craft),
    "trojan": Attack(trojan.TrojanConfig, trojan.craft),
    "sig": Attack(sig.SIGConfig, sig.craft, changes_labels=False),
    "wanet": Attack(wanet.WaNetConfig, wanet.craft),
    "tact": Attack(tact.TaCTConfig, tact.craft),
    "adaptive_blend": Attack(adaptive_blend.AdaptiveBlendConfig, adaptive_blend.craft),
    "adaptive_patch": Attack(adaptive_patch.AdaptivePatchConfig, adaptive_patch.craft),
    "clean_label": Attack(clean_label.CleanLabelConfig, clean_label.craft, changes_labels=False, learns=True),
    "narcissus": Attack(
        narcissus.NarcissusConfig, narcissus.craft, changes_labels=False, learns=True, needs_public=True
    ),
}


def find_attack(name: str) -> Attack:
    """An attack by its name, in any case and with hyphens or underscores.

    Raises:
        ValueError: no such attack.
    """
    known: dict[str, Any] = ATTACKS
    found = known.get(name.lower().replace("-", "_"))
    if found is None:
        raise ValueError(f"Expected an attack out of {', '.join(ATTACKS)}, but got {name!r}.")
    return found

"""Every attack by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puregen_transforms.attacks import (
    adaptive_blend,
    adaptive_patch,
    badnets,
    blended,
    bullseye_polytope,
    clean_label,
    gradient_matching,
    input_aware,
    issba,
    narcissus,
    ntga,
    sig,
    tact,
    trojan,
    wanet,
)
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.surrogates import Progress
from puregen_transforms.data.image_set import ImageSet

_NEEDED = {
    "public": "images that the attacker has besides the training set (`public`, --public)",
    "targets": "images outside the training set, one of which is to be misread (`targets`, --targets)",
    "energy": "an energy network, of the defense that it knows (`energy`, --energy)",
}


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        config: its settings.
        function: (dataset, settings, seed=...) -> poison; what else it takes is seen from its signature: `public`,
            `targets`, `energy`, `device`, `progress`.
        changes_labels: whether a poisoned row's label may change; such an attack is not clean-label.
    """

    config: type[AttackConfig]
    function: Callable[..., Poison]
    changes_labels: bool = True

    def takes(self, name: str) -> bool:
        """Whether the attack has use for an argument of `craft`."""
        return name in inspect.signature(self.function).parameters

    def craft(
        self,
        dataset: ImageSet,
        config: AttackConfig,
        *,
        seed: int = 0,
        public: ImageSet | None = None,
        targets: ImageSet | None = None,
        energy: nn.Module | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = lambda what, done, of: None,
    ) -> Poison:
        """Craft the poison. Attacks take of these what they need and leave the rest.

        Args:
            dataset: the training set to poison.
            config: settings.
            seed: of all that is random.
            public: other images, for attackers who learn from such: of other classes for "narcissus", what feature
                extractors are trained on for "bullseye_polytope".
            targets: images that are not in the training set, of its classes; attacks without trigger aim at one.
            energy: (N, 3, H, W) in [-1, 1] -> (N,), for an attacker who knows the defense.
            device: where attacks that learn train.
            progress: told what they do.

        Raises:
            ValueError: settings that do not fit the set; or something missing that the attack needs.
        """
        given = {"public": public, "targets": targets, "energy": energy, "device": device, "progress": progress}
        options = {name: value for name, value in given.items() if self.takes(name)}
        required = inspect.signature(self.function).parameters
        for name, what in _NEEDED.items():
            if name in options and options[name] is None and required[name].default is inspect.Parameter.empty:
                raise ValueError(f"Expected {what}: this attack needs them. Got none.")
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
    "input_aware": Attack(input_aware.InputAwareConfig, input_aware.craft),
    "issba": Attack(issba.ISSBAConfig, issba.craft),
    "clean_label": Attack(clean_label.CleanLabelConfig, clean_label.craft, changes_labels=False),
    "narcissus": Attack(narcissus.NarcissusConfig, narcissus.craft, changes_labels=False),
    "gradient_matching": Attack(
        gradient_matching.GradientMatchingConfig, gradient_matching.craft, changes_labels=False
    ),
    "bullseye_polytope": Attack(
        bullseye_polytope.BullseyePolytopeConfig, bullseye_polytope.craft, changes_labels=False
    ),
    "ntga": Attack(ntga.NTGAConfig, ntga.craft, changes_labels=False),
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

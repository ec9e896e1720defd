"""Craft the poisons of a benchmark: each once, and surrogates that several attacks share once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import find_attack
from puregen_transforms.attacks.surrogates import Surrogates
from puregen_transforms.evaluate.cells import AttackSpec, VictimSpec
from puregen_transforms.evaluate.frozen import frozen_features, train_frozen
from puregen_transforms.evaluate.sets import Sets
from puregen_transforms.evaluate.store import Store, fingerprint
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

ATTACKER = 100
"""Seed of attackers who train networks, so that no surrogate starts from a victim's weights."""


@dataclass(frozen=True)
class Workshop:
    """Craft poisons, and keep them.

    Args:
        sets: the images.
        store: of what is there already.
        device: where to train and to optimize.
        progress: told what is being done.
    """

    sets: Sets
    store: Store
    device: torch.device | str = "cpu"
    progress: Progress = silent

    def craft(self, spec: AttackSpec, victim: VictimSpec, extractor: Callable[[], nn.Module]) -> Poison:
        """Craft the poison of an attack, or get the kept one.

        Args:
            spec: of the attack.
            victim: the victim that it is for.
            extractor: gives the network that a transferring victim starts from, for attackers who have it.

        Raises:
            ValueError: settings that do not fit the sets.
        """
        attack = find_attack(spec.name)
        config, seed = attack.config(**spec.settings), ATTACKER if attack.optimizes else 0

        def train(surrogates: Surrogates) -> list[nn.Module]:
            if spec.known:
                return [extractor().to(self.device).eval()]
            return self._on_frozen(surrogates, victim) if victim.is_frozen else self._surrogates(surrogates, seed)

        def craft() -> Poison:
            given = {name: getattr(self.sets, part) for name, part in _parts(attack, victim).items()}
            if "energy" in attack.needed(config):
                given["energy"] = load_ebm(resolve_ebm(None))
            attacker = Attacker(seed=seed, given=given, device=self.device, progress=self.progress, train=train)
            return attack.craft(self.sets.learned_in(victim.scenario), config, attacker)

        return self.store.poison({**self.key(spec, victim), "seed": seed}, craft)

    def key(self, spec: AttackSpec, victim: VictimSpec) -> dict[str, Any]:
        """Name all that decides a poison, but for the seed.

        Raises:
            ValueError: the sets lack images that the attack needs.
        """
        attack, scenario = find_attack(spec.name), victim.scenario
        config = attack.config(**spec.settings)
        seen = ["transfer" if victim.transfers else "train", *_parts(attack, victim).values()]
        missing = [name for name in seen if name not in self.sets.fingerprints]
        if missing:
            raise ValueError(f"Expected {missing[0]} images, which {spec.name!r} needs, but got none.")
        key = {
            "attack": spec.name,
            "config": config.to_dict(),
            "scenario": scenario,
            "known": [victim.classifier, victim.recipe, victim.epochs] if spec.known else None,
            "images": {name: self.sets.fingerprints[name] for name in seen},
        }
        if victim.is_frozen:
            key["backbone"] = frozen_features(victim.classifier).sha256
        return key | ({"energy": resolve_ebm(None).sha256} if "energy" in attack.needed(config) else {})

    def _on_frozen(self, surrogates: Surrogates, victim: VictimSpec) -> list[nn.Module]:
        """Train what the attacker's surrogates would learn on the network with public weights that the victim has."""
        learned = surrogates.learned
        images = learned.images if surrogates.purify is None else surrogates.purify(learned.images)
        classes = len(learned.class_names)
        return [train_frozen(victim.classifier, images, learned.labels, classes=classes, device=self.device)]

    def _surrogates(self, surrogates: Surrogates, seed: int) -> list[nn.Module]:
        """Train an attacker's surrogates, or get the kept ones: they are kept by what they learn, whoever asks."""
        learned = surrogates.learned
        key = [
            list(surrogates.kinds),
            surrogates.epochs,
            seed,
            len(learned.class_names),
            fingerprint(learned.images, learned.labels),
            [surrogates.purified_by, resolve_ebm(None).sha256] if surrogates.purify else None,
        ]

        def train() -> dict[str, torch.Tensor]:
            networks = surrogates.train(seed=seed, device=self.device, progress=self.progress)
            states = [network.state_dict() for network in networks]
            return {f"{index}.{name}": value for index, state in enumerate(states) for name, value in state.items()}

        kept = self.store.tensors("surrogates", key, train)
        weights: list[dict[str, torch.Tensor]] = [{} for _ in surrogates.kinds]
        for name, value in kept.items():
            index, _, own = name.partition(".")
            weights[int(index)][own] = value
        return surrogates.rebuild(weights, device=self.device)


def _parts(attack: Attack[Any], victim: VictimSpec) -> dict[str, str]:
    """Find the part of the sets that stands for each kind of images that an attack needs."""
    parts = {"targets": "targets", "public": "train"}
    if not victim.transfers:
        parts = {"targets": "test", "public": "public"}
    return {name: part for name, part in parts.items() if name in attack.needs}

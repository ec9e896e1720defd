"""Poisons for a benchmark: crafted once, and networks that several of them share trained once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from puregen_transforms.attacks import bullseye_polytope, gradient_matching, narcissus
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import find_attack
from puregen_transforms.attacks.surrogates import Progress
from puregen_transforms.evaluate.cells import AttackSpec, VictimSpec
from puregen_transforms.evaluate.sets import Sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.features import add_dropout

ATTACKER = 100
"""Seed of attackers who train networks, so that no surrogate starts from a victim's weights."""


@dataclass(frozen=True)
class Workshop:
    """Where poisons are crafted.

    Args:
        sets: the images.
        store: of what is there already.
        device: where to train and to optimize.
        progress: told what is being done.
    """

    sets: Sets
    store: Store
    device: torch.device | str = "cpu"
    progress: Progress = lambda what, done, of: None

    def craft(self, spec: AttackSpec, victim: VictimSpec, extractor: Callable[[], nn.Module]) -> Poison:
        """The poison of an attack.

        Args:
            spec: of the attack.
            victim: that it is for.
            extractor: gives the network that a transferring victim starts from, for attackers who have it.

        Raises:
            ValueError: settings that do not fit the sets.
        """
        attack = find_attack(spec.name)
        config = attack.config(**spec.settings)
        scenario, seed = victim.scenario, ATTACKER if attack.takes("device") else 0
        key = {**self.key(spec, victim), "seed": seed}
        special = _SPECIAL.get(spec.name)
        if special is not None:
            return self.store.poison(key, lambda: special(self, spec, config, scenario, seed, extractor))
        return self.store.poison(
            key,
            lambda: attack.craft(
                self.sets.learned_in(scenario), config, seed=seed, device=self.device, progress=self.progress
            ),
        )

    def key(self, spec: AttackSpec, victim: VictimSpec) -> dict[str, Any]:
        """All that decides a poison, but for the seed."""
        attack, scenario = find_attack(spec.name), victim.scenario
        seen = ["train" if scenario == "scratch" else "transfer"]
        if attack.takes("targets"):
            seen.append("test" if scenario == "scratch" else "targets")
        if attack.takes("public"):
            seen.append("public" if scenario == "scratch" else "train")
        config = attack.config(**spec.settings).to_dict()
        missing = [name for name in seen if name not in self.sets.fingerprints]
        if missing:
            raise ValueError(f"Expected {missing[0]} images, which {spec.name!r} needs, but got none.")
        images = {name: self.sets.fingerprints[name] for name in seen}
        known = [victim.classifier, victim.recipe, victim.epochs] if spec.known else None
        key = {"attack": spec.name, "config": config, "scenario": scenario, "known": known, "images": images}
        if config.get("defense_aware", "none") != "none":
            key["energy"] = resolve_ebm(None).sha256
        return key

    def networks(
        self, key: Any, kinds: Sequence[tuple[str, int, float]], train: Callable[[], Sequence[nn.Module]]
    ) -> list[nn.Module]:
        """An attacker's networks.

        Args:
            key: all that decides them.
            kinds: of each its name, its number of classes and its dropout.
            train: trains them all.
        """
        kept = self.store.tensors(
            "surrogates",
            [key, list(kinds), str(self.sets.fingerprints["train"]), self.sets.fingerprints.get("public")],
            lambda: {
                f"{index}.{name}": value
                for index, model in enumerate(train())
                for name, value in model.state_dict().items()
            },
        )
        networks = []
        for index, (name, classes, dropout) in enumerate(kinds):
            model = build_classifier(name, classes)
            own = f"{index}."
            model.load_state_dict({name.removeprefix(own): v for name, v in kept.items() if name.startswith(own)})
            add_dropout(model, dropout)
            networks.append(model.to(self.device).eval())
        return networks


def _narcissus(
    shop: Workshop, spec: AttackSpec, config: AttackConfig, scenario: str, seed: int, extractor: Callable[[], nn.Module]
) -> Poison:
    """One surrogate does for all epsilons and rates."""
    assert isinstance(config, narcissus.NarcissusConfig)
    assert shop.sets.public is not None
    energy: EBM | None = None if config.defense_aware == "none" else load_ebm(resolve_ebm(None))
    purified = config.defense_aware in ("surrogate", "both")
    parts = {
        key: value
        for key, value in config.to_dict().items()
        if key in ("target_class", "surrogate", "surrogate_epochs") or (purified and key.startswith("langevin"))
    }
    dataset, public = shop.sets.learned_in(scenario), shop.sets.public

    def train() -> list[nn.Module]:
        options = {"energy": energy, "seed": seed, "device": shop.device, "progress": shop.progress}
        return [narcissus.train_on_public(dataset, public, config, **options)]  # type: ignore[arg-type]

    kind = (config.surrogate, len(public.class_names) + 1, 0.0)
    weights = resolve_ebm(None).sha256 if purified else False
    (surrogate,) = shop.networks(["narcissus", parts, weights, scenario, seed], [kind], train)
    return narcissus.craft_with(surrogate, dataset, config, energy=energy, seed=seed, progress=shop.progress)


def _gradient_matching(
    shop: Workshop, spec: AttackSpec, config: AttackConfig, scenario: str, seed: int, extractor: Callable[[], nn.Module]
) -> Poison:
    """The surrogates do for all targets."""
    assert isinstance(config, gradient_matching.GradientMatchingConfig)
    dataset = shop.sets.learned_in(scenario)
    train = partial(
        gradient_matching.train_surrogates, dataset, config, seed=seed, device=shop.device, progress=shop.progress
    )
    surrogates = shop.networks(
        ["gradient_matching", config.surrogate_epochs, scenario, seed],
        [(config.surrogate, len(dataset.class_names), 0.0)] * config.ensemble,
        train,
    )
    targets = shop.sets.targets_in(scenario)
    return gradient_matching.craft_with(surrogates, dataset, config, targets=targets, seed=seed, progress=shop.progress)


def _bullseye_polytope(
    shop: Workshop, spec: AttackSpec, config: AttackConfig, scenario: str, seed: int, extractor: Callable[[], nn.Module]
) -> Poison:
    """The substitutes do for all targets."""
    assert isinstance(config, bullseye_polytope.BullseyePolytopeConfig)
    dataset, public = shop.sets.learned_in(scenario), shop.sets.train
    if spec.known:
        substitutes = [extractor().to(shop.device).eval()]
    else:
        classes = len(public.class_names)
        train = partial(
            bullseye_polytope.train_substitutes, public, config, seed=seed, device=shop.device, progress=shop.progress
        )
        substitutes = shop.networks(
            ["bullseye_polytope", config.surrogate_epochs, seed],
            [(name, classes, dropout) for name in config.surrogates for dropout in config.dropouts],
            train,
        )
    targets = shop.sets.targets_in(scenario)
    return bullseye_polytope.craft_with(
        substitutes, dataset, config, targets=targets, seed=seed, progress=shop.progress
    )


_SPECIAL: dict[str, Callable[..., Poison]] = {
    "narcissus": _narcissus,
    "gradient_matching": _gradient_matching,
    "bullseye_polytope": _bullseye_polytope,
}

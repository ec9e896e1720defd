"""Find attacks by their names, and craft with them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from puregen_transforms._progress import Progress, silent
from puregen_transforms.attacks.attack import Attack, Attacker
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.data.image_set import ImageSet

ATTACKS: dict[str, Attack[Any]] = {
    name: import_module(f"puregen_transforms.attacks.{name}").ATTACK
    for name in (
        "badnets",
        "blended",
        "trojan",
        "sig",
        "wanet",
        "tact",
        "adaptive_blend",
        "adaptive_patch",
        "input_aware",
        "issba",
        "low_frequency",
        "ctrl",
        "flip",
        "gcb",
        "mixed",
        "clean_label",
        "narcissus",
        "gradient_matching",
        "bullseye_polytope",
        "ntga",
        "label_noise",
        "lsp",
        "urp",
        "autoregressive",
        "one_pixel_shortcut",
        "error_minimizing",
        "targeted_adversarial",
    )
}
"""Every attack by its name."""


def find_attack(name: str) -> Attack[Any]:
    """Find an attack by its name, in any case and with hyphens or underscores.

    Raises:
        ValueError: no such attack.
    """
    found = ATTACKS.get(name.lower().replace("-", "_"))
    if found is None:
        raise ValueError(f"Expected an attack out of {', '.join(ATTACKS)}, but got {name!r}.")
    return found


def craft(
    attack: str,
    images: ImageSet | str,
    *,
    preset: str = "paper",
    seed: int = 0,
    public: ImageSet | str | None = None,
    targets: ImageSet | str | None = None,
    energy: nn.Module | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
    **settings: Any,
) -> Poison:
    """Craft a poison for a training set.

    Args:
        attack: its name; see `ATTACKS`.
        images: the training set; or its source, such as a folder or a Parquet file, which `ImageSet.load` reads.
        preset: "paper" for the published settings, "cpu" for cheaper ones, "smoke" for a try of some seconds.
        seed: of all that is random.
        public: other images, for attackers who learn from them: of other classes for "narcissus", what feature
            extractors are trained on for "bullseye_polytope".
        targets: images outside the training set, of its classes, for triggerless attacks; one is the target image.
        energy: the EBM of the defense, for an attacker who knows it.
        device: where to train and to optimize.
        progress: called with (what is being done, steps done, steps in all).
        **settings: of the attack's config, such as `target_class`, `rate` or `epsilon`; they replace the preset's.

    Raises:
        FileNotFoundError: no such source.
        ValueError: an unknown attack or setting, settings that do not fit the set, or something missing that the
            attack needs.
    """
    found = find_attack(attack)
    config = found.config.preset(preset, **settings)
    given = {"public": _loaded(public), "targets": _loaded(targets), "energy": energy}
    attacker = Attacker(seed=seed, given=given, device=device, progress=progress)
    return found.craft(_loaded(images), config, attacker)


def _loaded(images: Any) -> Any:
    return ImageSet.load(images) if isinstance(images, str) else images

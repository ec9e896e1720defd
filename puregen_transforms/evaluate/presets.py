"""How large a benchmark is: "smoke" (two minutes on packaged images), "cpu" (2 cores), "paper" (a GPU)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puregen_transforms.evaluate.cells import VictimSpec
from puregen_transforms.evaluate.generators import GeneratorSpec


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One preset.

    Args:
        name: of the preset; attacks have presets of the same names.
        images_per_class: that victims from scratch learn, at most.
        victim: from scratch.
        targets: target images, for triggerless attacks.
        transfer_epochs: of both kinds of transfer; None is as published.
        pretrain: images of each class that feature extractors learn, where victims transfer.
        fine_tune: images of each class that a transferring victim learns.
        generator: settings of the generators that a protocol trains.
        purify: options of `PureGen` that make it cheaper, by method.
        friends: settings of FrieNDs.
        epic: settings of EPIC.
    """

    name: str
    images_per_class: int
    victim: VictimSpec
    targets: int
    transfer_epochs: int | None = None
    pretrain: int = 4800
    fine_tune: int = 50
    generator: GeneratorSpec
    purify: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    friends: Mapping[str, Any] = field(default_factory=dict)
    epic: Mapping[str, Any] = field(default_factory=dict)


_FEW_CALLS = {
    **{method: {"ddpm_inference_steps": 15} for method in ("ddpm", "naive", "adaptive")},
    "filt": {"ddpm_inference_steps": 25},
    "reps": {"ddpm_inference_steps": 10},
}
"""Calls of the diffusion network that 2 cores have time for."""

SCALES = {
    scale.name: scale
    for scale in (
        Scale(
            name="smoke",
            images_per_class=48,
            victim=VictimSpec(classifier="tiny", recipe="small_batches", epochs=40),
            targets=1,
            transfer_epochs=4,
            pretrain=48,
            fine_tune=6,
            generator=GeneratorSpec(nf=4, updates=2, batch_size=8, langevin_steps=2, bank_size=16),
            purify={**_FEW_CALLS, **{method: {"ddpm_inference_steps": 5} for method in ("ddpm", "naive")}},
            friends={"iterations": 5},
            epic={"interval": 10},
        ),
        Scale(
            name="cpu",
            images_per_class=1000,
            victim=VictimSpec(),
            targets=10,
            generator=GeneratorSpec(nf=32, updates=1500, batch_size=32, langevin_steps=40, bank_size=4000),
            purify=_FEW_CALLS,
            epic={"interval": 3},
        ),
        Scale(
            name="paper",
            images_per_class=5000,
            victim=VictimSpec(classifier="resnet18", recipe="step", epochs=80),
            targets=100,
            generator=GeneratorSpec(nf=128, updates=5000, batch_size=128, langevin_steps=100, bank_size=10_000),
            epic={"interval": 10},
        ),
    )
}

"""Generators that a benchmark trains itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from puregen_transforms.evaluate.store import Store, fingerprint
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.purifier.device import choose_dtype


@dataclass(frozen=True, kw_only=True)
class GeneratorSpec:
    """An energy network and its training; see `EBMTraining`. The rate falls to 0.3 at half time and 0.1 at 80 %."""

    nf: int
    updates: int
    batch_size: int
    langevin_steps: int
    bank_size: int
    seed: int = 0


def trained_ebm(
    store: Store,
    spec: GeneratorSpec,
    images: Tensor,
    *,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train an energy network, or find it trained: the folder of a checkpoint. A killed training goes on.

    Args:
        store: of results.
        spec: which network, and how it is trained.
        images: (N, 3, S, S) uint8, what it learns.
        device: where to train.
        say: told what is going on, in lines.
    """
    from accelerate import Accelerator

    from puregen_transforms.train.config import EBMTraining
    from puregen_transforms.train.ebm import EBMTrainer
    from puregen_transforms.train.generator_run import run_training

    folder = store.path_of("generators", [asdict(spec), fingerprint(images)], "")
    with store.locked(folder):
        if not (folder / "config.json").exists() or not (folder / "model.safetensors").exists():
            settings = {name: value for name, value in asdict(spec).items() if name != "nf"}
            training = EBMTraining(**settings, milestones=(0.5, 0.8), rate_factors=(0.3, 0.1))
            config = EBMConfig(nf=spec.nf, image_size=images.shape[-1])
            dtype = choose_dtype("auto", torch.device(device))
            trainer = EBMTrainer(images, training, config, Accelerator(cpu=device == "cpu"), dtype=dtype)
            for done in run_training(trainer, folder, save_every=100):
                if done.update % max(1, spec.updates // 10) == 0:
                    say(f"  training a generator: {done}")
    return folder

"""What the benchmarks of attacks share: the training set, its victims, and what is kept of a killed run."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from puregen_transforms._files import write_atomically
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.surrogates import Progress
from puregen_transforms.evaluate.store import fingerprint
from puregen_transforms.models.classifiers import build_classifier, small_classifier
from puregen_transforms.models.features import add_dropout
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

RESULTS = Path(__file__).parent / "results"
ATTACKER = 100
"""Added to the seed of attackers who train networks, so that no surrogate starts from a victim's weights."""


def parser_of(description: str | None, output: str) -> argparse.ArgumentParser:
    """The options that all have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where to craft and to train")
    parser.add_argument("--runs", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--output", type=Path, default=RESULTS / output)
    return parser


@dataclass(frozen=True)
class Kept:
    """A poison and where it is on disk."""

    poison: Poison
    folder: Path
    seconds_to_craft: float


def kept_poison(arguments: argparse.Namespace, settings: Sequence[Any], craft: Callable[[], Poison]) -> Kept:
    """The poison; from disk, if one of these settings is there."""
    folder = arguments.runs / f"{settings[0]}-{_digest([*settings, arguments.seed, arguments.per_class])}"
    took = folder.with_suffix(".seconds")
    if not folder.exists():
        started = time.time()
        poison = craft()
        write_atomically(took, f"{time.time() - started:.1f}".encode())
        poison.save(folder)
    return Kept(Poison.load(folder), folder, float(took.read_text()))


def kept_networks(
    arguments: argparse.Namespace,
    settings: Sequence[Any],
    kinds: Sequence[tuple[str, int, float]],
    train: Callable[[], Sequence[nn.Module]],
) -> list[nn.Module]:
    """An attacker's networks; from disk, if those of these settings are there.

    Args:
        arguments: of the command.
        settings: on which they depend; the first is a name.
        kinds: of each its name, its number of classes and its dropout.
        train: trains them.
    """
    digest = _digest([*settings, arguments.seed, arguments.per_class])
    paths = [arguments.runs / f"{settings[0]}-{digest}-{index}.safetensors" for index in range(len(kinds))]
    if not all(path.exists() for path in paths):
        for path, model in zip(paths, train(), strict=True):
            write_atomically(path, save({key: value.contiguous() for key, value in model.state_dict().items()}))
    networks = []
    for path, (name, classes, dropout) in zip(paths, kinds, strict=True):
        model = build_classifier(name, classes)
        model.load_state_dict(load_file(path))
        add_dropout(model, dropout)
        networks.append(model.to(arguments.device).eval())
    return networks


def trained(images: Tensor, labels: Tensor, arguments: argparse.Namespace, name: str, *, seed: int = 0) -> nn.Module:
    """A victim, on the CPU; kept by the content of its set."""
    seed += arguments.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = small_classifier(10, arguments.width)
    kept = (
        arguments.runs / f"{name}-{fingerprint(images, labels)}-{arguments.width}-{arguments.epochs}-{seed}.safetensors"
    )
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model.eval()
    generator = torch.Generator().manual_seed(seed)
    images, labels = images.to(arguments.device), labels.to(arguments.device)
    model.to(arguments.device)
    for loss in train_classifier(
        model, images, labels, recipe=FastRecipe(epochs=arguments.epochs), generator=generator
    ):
        print(f"  loss {loss:.3f}", end="", flush=True)
    print()
    write_atomically(kept, save({key: value.contiguous() for key, value in model.state_dict().items()}))
    return model.cpu().eval()


def reporter(name: str) -> Progress:
    """Prints about ten lines for each thing an attack does."""

    def progress(what: str, done: int, of: int) -> None:
        if done in (1, of) or done % max(1, of // 10) == 0:
            print(f"  {name}: {what} {done}/{of}", flush=True)

    return progress


def command_of(script: str, arguments: argparse.Namespace, *more: str) -> str:
    """What reproduces a record."""
    options = [f"--{name.replace('_', '-')} {getattr(arguments, name)}" for name in ("preset", "per_class", "epochs")]
    options += [f"--width {arguments.width}", f"--seed {arguments.seed}"]
    return " ".join([f"python benchmarks/{script} CIFAR10_TRAIN CIFAR10_TEST", *more, *options])


def _digest(settings: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(settings)).encode()).hexdigest()[:12]

"""How much longer an epoch takes with ECLIPSE's corruption compensation: the goal is less than 5 %.

    uv run python benchmarks/compensation_cost.py

Contract: random images of 32x32 pixels, in batches of 128, on one thread; CPU seconds of an image, the median of
`--rounds` rounds in which everything is timed in turn. An epoch is timed by its parts, as all of them are in proportion
to the images: a training step of each network, and what prepares an image for it. The compensation comes in two forms:

- in training: the training defense `corruption_compensation`, on whole batches; prepared are images by shift and flip;
- in a pipeline: the transform `eclipse_compensation`, on single images, after crop and flip, as in a `DataLoader`
  without workers. With workers, a GPU waits for it only where they cannot keep up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from protocol import RESULTS
from torch import Tensor
from torchvision.transforms import v2

from puregen_transforms.defenses import CorruptionCompensation
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.recipes import FastRecipe
from puregen_transforms.transforms import eclipse_compensation

BATCH = 128
NETWORKS = ("small", "hlb", "resnet18")
GOAL = 0.05


def training_step(network: str, batch: Tensor, labels: Tensor) -> Callable[[], object]:
    """Make a function that trains a network on one batch."""
    torch.manual_seed(0)
    model, recipe = build_classifier(network, 10).train(), FastRecipe()
    optimizer, _ = recipe.optimizer(model, 1000)

    def step() -> None:
        with autocast(batch.device):
            loss = recipe.loss(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def parts() -> dict[str, Callable[[], object]]:
    """List what is timed, each on one batch."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator).byte()
    labels, batch, recipe = torch.arange(BATCH) % 10, normalize(pixels), FastRecipe()
    hooks = CorruptionCompensation().hooks(0)
    prepare = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    compensate, to_float = eclipse_compensation(), v2.ToDtype(torch.float32, scale=True)
    return {
        **{f"step of {network}": training_step(network, batch, labels) for network in NETWORKS},
        "batch prepared": lambda: recipe.augment(normalize(pixels), generator),
        "batch compensated": lambda: hooks.change(batch, labels, generator),
        "images prepared": lambda: [to_float(prepare(image)) for image in pixels],
        "images compensated": lambda: [compensate(image) for image in pixels],
    }


def timed(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time functions in turn: median CPU seconds of an image; the first call of each is not counted."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if number:
                found[name].append((time.process_time() - started) / BATCH)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def shares(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    """Compare what the compensation costs with an epoch without it, for each network and form."""
    return {
        network: {
            form: seconds[f"{part} compensated"] / (seconds[f"step of {network}"] + seconds[f"{part} prepared"])
            for form, part in (("in training", "batch"), ("in a pipeline", "images"))
        }
        for network in NETWORKS
    }


def markdown(record: dict[str, Any]) -> str:
    """Write the shares as a table."""
    forms = list(next(iter(record["share_of_epoch"].values())))
    lines = [["network", *forms], ["---"] * (1 + len(forms))]
    lines += [[name, *(f"{found[form]:.1%}" for form in forms)] for name, found in record["share_of_epoch"].items()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n`{record['command']}`, medians of {record['rounds']}; {record['machine']}.\n"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "compensation_cost.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds = timed(parts(), arguments.rounds)
    record = {
        "benchmark": "compensation_cost",
        "command": "python benchmarks/compensation_cost.py",
        **describe_machine(),
        "rounds": arguments.rounds,
        "seconds_per_image": seconds,
        "share_of_epoch": shares(seconds),
        "goal": GOAL,
    }
    write_record(arguments.output, record)
    print(markdown(record))


if __name__ == "__main__":
    main()

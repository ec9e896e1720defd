"""What searching a set costs, beside one ordinary training of the classifier: each search, and all of them.

    uv run python benchmarks/search_costs.py CIFAR10_TRAIN

Contract: the first 1,000 images of each class of CIFAR-10, as they came, and the same with `badnets` in 1 % of them;
the small classifier learns them for twelve epochs. Seconds of one process on an idle machine, a thread for each core.
Searches are made in the order of `puregen detect --budget 20m`, without clean images: what several of them share, such
as the features of a network with public weights, counts where it is computed first. Goals: 15 seconds and a tenth of a
training for those without a network together, and one and a half trainings for all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptive_attackers import learn
from protocol import RESULTS
from torch import Tensor, nn

from puregen_transforms.attacks import craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import at_most_per_class
from puregen_transforms.detection import SuspectSet, search_set
from puregen_transforms.evaluate.records import describe_machine, write_record

NETWORK_FREE = ("stamps", "patches", "stripes", "residual_patterns")
"""Searches that read pixels alone."""
PER_CLASS, SHARE = 1_000, 0.01
GOALS = {"network-free seconds": 15.0, "network-free trainings": 0.1, "trainings": 1.5}


def sets_of(clean: ImageSet) -> dict[str, tuple[Tensor, Tensor]]:
    """Make the sets that are searched, as images and labels."""
    poison = craft("badnets", clean, rate=SHARE)
    return {"clean": (clean.images, clean.labels), "badnets": poison.apply_to_tensors(clean.images, clean.labels)}


def measure(images: Tensor, labels: Tensor, clean: ImageSet) -> dict[str, Any]:
    """Search a set, and time the training of its classifier and each search, in seconds."""
    training: list[float] = []

    def train(suspects: SuspectSet) -> nn.Module:
        started = time.perf_counter()
        model = learn(images, labels, clean, suspects.seed)
        training.append(time.perf_counter() - started)
        return model

    suspects = SuspectSet(images=images, labels=labels, class_names=clean.class_names)
    started = time.perf_counter()
    verdict = search_set(suspects, budget="20m", train=train)
    everything = time.perf_counter() - started
    return {
        "level": verdict.level,
        "training": training[0],
        "searches": {one.search.name: one.report.seconds for one in verdict.made},
        "all_searches": everything - training[0],
    }


def network_free_seconds(one: Mapping[str, Any]) -> float:
    """Sum the seconds of the searches that read pixels alone."""
    return sum(one["searches"][name] for name in NETWORK_FREE)


def costs_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Put the rounds together, by their medians: seconds without a network, and all searches in trainings."""
    return {
        "network-free seconds": statistics.median(map(network_free_seconds, rounds)),
        "network-free trainings": statistics.median(network_free_seconds(one) / one["training"] for one in rounds),
        "trainings": statistics.median(one["all_searches"] / one["training"] for one in rounds),
    }


def markdown(record: Mapping[str, Any]) -> str:
    """Write the seconds as a table: a line for what is timed, a column for each set, and in trainings."""
    rounds = record["rounds"]
    names = list(rounds)
    trained = {name: statistics.median(one["training"] for one in rounds[name]) for name in names}
    lines = [["", *(f"{name}, {unit}" for name in names for unit in ("s", "trainings"))]]
    lines.append(["---"] * len(lines[0]))

    def add(what: str, seconds: Callable[[Mapping[str, Any]], float]) -> None:
        medians = {name: statistics.median(map(seconds, rounds[name])) for name in names}
        cells = [(f"{medians[name]:.1f}", f"{medians[name] / trained[name]:.2f}") for name in names]
        lines.append([what, *(text for pair in cells for text in pair)])

    add("the classifier, trained", lambda one: one["training"])
    for search in rounds[names[0]][0]["searches"]:
        add(search, lambda one, search=search: one["searches"][search])  # type: ignore[misc]
    add("those without a network", network_free_seconds)
    add("all searches", lambda one: one["all_searches"])
    table = "\n".join(f"| {' | '.join(one)} |" for one in lines)
    count = len(rounds[names[0]])
    return f"{table}\n\n`{record['command']}`, {record['images']:,} images, medians of {count}; {record['machine']}.\n"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "search_costs.json")
    arguments = parser.parse_args()
    clean = at_most_per_class(ImageSet.load(arguments.train), PER_CLASS)
    sets = sets_of(clean)
    few = at_most_per_class(clean, 20)
    measure(few.images, few.labels, few)  # libraries and weights are read
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sets}
    for _ in range(arguments.rounds):
        for name, (images, labels) in sets.items():
            rounds[name].append(measure(images, labels, clean))
            print(name, rounds[name][-1], flush=True)
    record = {
        "benchmark": "search_costs",
        "command": "python benchmarks/search_costs.py CIFAR10_TRAIN",
        **describe_machine(),
        "images": len(clean),
        "goals": GOALS,
        "rounds": rounds,
        "costs": {name: costs_of(found) for name, found in rounds.items()},
    }
    write_record(arguments.output, record)
    print(markdown(record))


if __name__ == "__main__":
    main()

"""What each method does to a classifier trained on the purified data: accuracy kept, attack stopped.

    uv run python benchmarks/dynamics_tradeoff.py CIFAR10_TRAIN_PARQUET CIFAR10_TEST_PARQUET

Contract: 5,000 CIFAR-10 training images (500 a class; a public JPEG copy), of which 50 of class bird, 1 % of the set
as in the paper, carry the demo trigger at eps 16/255 (a clean-label attack). The whole set is purified once by each
method, with its threshold, where it has one, fitted to this poisoned set without labels; then the same small classifier
is trained on it with the same seeds. Reported on the 10,000 test images, which nothing purifies: accuracy, and the
share of images of other classes called bird when the trigger is added, at eps 16 as in training and doubled (32),
against a classifier trained on the same set without poison. Beside them the proxies: PSNR of the purified clean images
and survival of the trigger, on the poisoned ones.

Purified sets and trained classifiers are kept in `--cache` by the content of what they are made of, so a run goes on
where it was stopped. It is no protocol of `puregen evaluate`: its attack is the packaged demo trigger, judged at two
magnifications, and beside victims it shows PSNR and what is left of the trigger.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms import PureGen
from puregen_transforms.data.demo import TARGET, add_trigger, load_demo
from puregen_transforms.data.sources import load_image_tensor, open_source
from puregen_transforms.evaluate.metrics import psnr_of_set, survival
from puregen_transforms.evaluate.plots import draw_victims
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.store import Store, fingerprint
from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe

RESULTS = Path(__file__).parent / "results"

METHODS: dict[str, dict[str, Any] | None] = {
    "no defense": None,
    "jpeg 25": {"method": "jpeg", "jpeg_quality": 25},
    "jpeg 50": {"method": "jpeg", "jpeg_quality": 50},
    "ebm, paper": {"method": "ebm", "dynamics": "paper"},
    "ebm, cooled (default)": {"method": "ebm", "dynamics": "cooled"},
    "ebm, annealed": {"method": "ebm", "dynamics": "annealed"},
    "ddpm, 15 calls": {"method": "ddpm", "ddpm_inference_steps": 15},
    "ddim 75, 1 call": {"method": "ddpm", "ddpm_solver": "ddim", "ddpm_inference_steps": 1},
    "naive": {"method": "naive", "ddpm_inference_steps": 15},
    "filt": {"method": "filt", "ddpm_inference_steps": 25},
    "adaptive": {"method": "adaptive", "ddpm_inference_steps": 15},
}


def subset(labels: Tensor, per_class: int) -> Tensor:
    """Choose the last `per_class` images of each class: the trigger was crafted on the first ones."""
    return torch.cat([(labels == c).nonzero()[-per_class:, 0] for c in range(10)])


def purified_set(store: Store, purify: PureGen, images: Tensor) -> Tensor:
    """Purify the clean images, or get the kept result."""

    def purified() -> dict[str, Tensor]:
        ids = torch.arange(len(images))
        return {"images": purify.purifier(images, sample_ids=ids, seed=purify.config.seed or 0)}

    return store.tensors("sets", [purify.digest, fingerprint(images)], purified)["images"]


def victim(store: Store, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> torch.nn.Module:
    """Train a classifier on a set, or get the kept one."""
    torch.manual_seed(seed)
    model = small_classifier(10)

    def trained() -> dict[str, Tensor]:
        generator, recipe = torch.Generator().manual_seed(seed), FastRecipe(epochs=epochs)
        for _ in train_classifier(model, images, labels, recipe=recipe, generator=generator):
            pass
        return model.state_dict()

    model.load_state_dict(store.tensors("victims", [fingerprint(images, labels), seed, epochs], trained))
    return model


def markdown(record: dict[str, Any]) -> str:
    """Format the record as a table: means over the classifiers, and their range where there are several."""

    def percent(values: list[float]) -> str:
        mean = f"{sum(values) / len(values):.0%}"
        return mean if len(values) == 1 else f"{mean} ({min(values):.0%} to {max(values):.0%})"

    lines = [
        "| training set | accuracy | attack success | success, trigger doubled | PSNR clean (dB) | trigger left |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in {"never poisoned": record["unpoisoned"], **record["methods"]}.items():
        proxies = (f"{row['psnr_clean']:.1f} | {row['survival']:.2f}") if "survival" in row else "– | –"
        figures = (row["accuracy"], row["success"]["16"], row["success"]["32"])
        lines.append(f"| {name} | {' | '.join(map(percent, figures))} | {proxies} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Poison, purify, train, judge, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--poisoned", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="classifiers trained on each set")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--cache", type=Path, default=Path("runs/dynamics_tradeoff"))
    parser.add_argument("--output", type=Path, default=RESULTS / "dynamics_tradeoff.json")
    arguments = parser.parse_args()
    store = Store(arguments.cache)

    all_labels = torch.tensor(open_source(arguments.train)["train"]["label"][:])
    rows = subset(all_labels, arguments.per_class)
    clean, labels = load_image_tensor(arguments.train)[rows], all_labels[rows]
    trigger = load_demo().trigger.int() * 2
    target_rows = (labels == TARGET).nonzero()[: arguments.poisoned, 0]
    poisoned = clean.clone()
    poisoned[target_rows] = add_trigger(clean[target_rows], trigger)
    test = load_image_tensor(arguments.test)
    test_labels = torch.tensor(open_source(arguments.test)["train"]["label"][:])
    others = test[test_labels != TARGET]
    triggered = {"16": add_trigger(others, trigger), "32": add_trigger(others, trigger * 2)}

    def judge(images: Tensor) -> dict[str, Any]:
        models = [victim(store, images, labels, epochs=arguments.epochs, seed=seed) for seed in range(arguments.seeds)]
        return {
            "accuracy": [accuracy(model, test, test_labels) for model in models],
            "success": {
                budget: [share_called_target(model, shown, TARGET) for model in models]
                for budget, shown in triggered.items()
            },
        }

    record: dict[str, Any] = {
        "benchmark": "dynamics_tradeoff",
        "command": "python benchmarks/dynamics_tradeoff.py cifar10-jpeg-train.parquet cifar10-jpeg-test.parquet "
        f"--per-class {arguments.per_class} --poisoned {arguments.poisoned} --epochs {arguments.epochs} "
        f"--seeds {arguments.seeds}",
        **describe_machine(),
        "images": len(clean),
        "poisoned": arguments.poisoned,
        "unpoisoned": judge(clean),
        "methods": {},
    }
    for name in arguments.methods:
        settings = METHODS[name]
        if settings is None:
            row = {"recipe": None, **judge(poisoned)}
        else:
            purify = PureGen(**settings, seed=0)
            if purify.config.uses_threshold:
                purify.fit(poisoned)
            # An image's result is its own, so that the poisoned ones can be exchanged in the purified clean set.
            cleaned = purified_set(store, purify, clean)
            purified = cleaned.clone()
            purified[target_rows] = purify.purifier(poisoned[target_rows], sample_ids=target_rows, seed=0)
            row = {
                "recipe": purify.to_dict(),
                **judge(purified),
                "psnr_clean": psnr_of_set(cleaned, clean),
                "survival": survival(*(x[target_rows] for x in (clean, poisoned, cleaned, purified))).mean().item(),
            }
        record["methods"][name] = row
        print(name, json.dumps({key: value for key, value in row.items() if key != "recipe"}), flush=True)
        write_record(arguments.output, record)
    draw_victims(arguments.output.with_suffix(".png"), record)


if __name__ == "__main__":
    main()

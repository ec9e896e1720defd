"""Craft the trigger that `puregen demo` shows: a first, short Narcissus (Zeng et al., 2023).

A small classifier learns CIFAR-10; then one perturbation, within 8/255 everywhere, is optimized over
training images of the target class alone, so that the classifier becomes surer of the target.
(Narcissus proper assumes less of the attacker: a surrogate of public data plus the target class.
On this JPEG copy of CIFAR-10 such a surrogate only learned to tell the two sources apart, and
called 99 % of clean CIFAR-10 images the target, so its trigger would mean nothing.)

    uv run python benchmarks/demo_trigger.py CIFAR10_TRAIN_PARQUET CIFAR10_TEST_PARQUET

Writes the packaged `trigger.safetensors` (int8, units of 1/255) and
`benchmarks/results/demo_trigger.json`. Judged on the test set, against the classifier it was made
for and against a second one of another seed, width and training half: the share of images of the
other classes that is called the target, with and without the trigger. Not judged here: a victim
trained on poisoned data. The classifiers are kept in `--cache`, so a rerun only crafts.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from puregen_transforms._files import write_atomically
from puregen_transforms.data.sources import load_image_tensor, open_source
from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe, shifted_together

ASSET = Path(__file__).parents[1] / "puregen_transforms/assets/demo/trigger.safetensors"
RESULT = Path(__file__).parent / "results/demo_trigger.json"
BUDGET = 8


def craft(model: nn.Module, images: Tensor, target: int, *, rounds: int, generator: torch.Generator) -> Tensor:
    """Optimize one (3, 32, 32) int8 perturbation, in units of 1/255, within `BUDGET`, that raises the target's share.

    As in Narcissus it is added after augmentation: it need not survive shifts.
    """
    model.eval().requires_grad_(False)
    noise = torch.zeros(1, 3, 32, 32, requires_grad=True)
    optimizer = torch.optim.RAdam([noise], lr=0.5)
    for step in range(rounds):
        index = torch.randint(len(images), (128,), generator=generator)
        poisoned = (shifted_together(images[index].float(), generator) + noise).clamp(0, 255)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(normalize(poisoned)), torch.full((len(index),), target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            noise.clamp_(-BUDGET, BUDGET)
        if step % 100 == 99:
            print(f"round {step + 1}/{rounds}: loss {loss.item():.4f}", flush=True)
    return noise.detach()[0].round().to(torch.int8)


def subset(images: Tensor, labels: Tensor, start: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Choose `per_class` images of each class, from the `start`-th of the class on."""
    rows = torch.cat([(labels == c).nonzero()[start : start + per_class, 0] for c in range(10)])
    return images[rows], labels[rows]


def main() -> None:
    """Train, craft, judge, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--target", type=int, default=2, help="CIFAR-10 class (2: bird)")
    parser.add_argument("--per-class", type=int, default=2000, help="training images of a class, for each classifier")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/demo_trigger"), help="folder for the classifiers")
    arguments = parser.parse_args()
    started = time.time()

    def load(source: str) -> tuple[Tensor, Tensor]:
        return load_image_tensor(source), torch.tensor(open_source(source)["train"]["label"][:])

    images, labels = load(arguments.train)
    models = []
    for index, width in enumerate((32, 24)):
        torch.manual_seed(arguments.seed + index)
        generator = torch.Generator().manual_seed(arguments.seed + index)
        model = small_classifier(10, width)
        name = f"classifier-{arguments.seed + index}-{width}-{arguments.per_class}-{arguments.epochs}.safetensors"
        kept = arguments.cache / name
        if kept.exists():
            model.load_state_dict(load_file(kept))
        else:
            own = subset(images, labels, index * arguments.per_class, arguments.per_class)
            losses = train_classifier(model, *own, recipe=FastRecipe(epochs=arguments.epochs), generator=generator)
            for epoch, loss in enumerate(losses):
                print(f"epoch {epoch + 1}/{arguments.epochs}: loss {loss:.3f}", flush=True)
            write_atomically(kept, save({key: value.contiguous() for key, value in model.state_dict().items()}))
        models.append(model.eval())
    own_images, own_labels = subset(images, labels, 0, arguments.per_class)
    generator = torch.Generator().manual_seed(arguments.seed)
    own_target = own_images[own_labels == arguments.target]
    trigger = craft(models[0], own_target, arguments.target, rounds=arguments.rounds, generator=generator)

    test, test_labels = load(arguments.test)
    others = test[test_labels != arguments.target]
    triggered = (others.float() + trigger).clamp(0, 255)
    record = {
        "command": "python benchmarks/demo_trigger.py cifar10-jpeg-train.parquet cifar10-jpeg-test.parquet "
        f"--target {arguments.target} --per-class {arguments.per_class} --epochs {arguments.epochs} "
        f"--rounds {arguments.rounds} --seed {arguments.seed}",
        "budget": BUDGET,
        "largest_change": int(trigger.abs().max()),
        "root_mean_square": trigger.float().square().mean().sqrt().item(),
        "classifiers": [
            {
                "role": role,
                "test_accuracy": accuracy(model, test, test_labels),
                "others_called_target_clean": share_called_target(model, others, arguments.target),
                "others_called_target_triggered": share_called_target(model, triggered, arguments.target),
            }
            for role, model in zip(("the one it was made for", "another"), models, strict=True)
        ],
        "seconds": round(time.time() - started),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seed": arguments.seed,
    }
    ASSET.parent.mkdir(parents=True, exist_ok=True)
    save_file({"trigger": trigger}, ASSET)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

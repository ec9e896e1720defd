"""Does each attack work? Success and clean accuracy of an undefended victim, beside one that saw no poison.

    uv run python benchmarks/attacks.py CIFAR10_TRAIN_PARQUET CIFAR10_TEST_PARQUET

Contract: one training set (the first `--per-class` images of each class), poisoned by each attack at a preset; on each
a victim of the same network, recipe and seed, and one on the set as it is. Success is the share of test images that
the attack aims at (of other classes, or of its source class) which the victim calls the target once they carry the
trigger; "never poisoned" is the same share for the victim without poison. Every attack aims at the class `--target`.

The CIFAR-10 copy is JPEG of quality 75; public images are stored in the same way before a surrogate learns them.

What is finished is kept in `--runs` by the content of the poison, so that a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from puregen_transforms._files import write_atomically
from puregen_transforms.attacks.config import AttackConfig
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.attacks.trigger import to_pixels
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.plots import draw_poison
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.purifier.stages import JPEGStage
from puregen_transforms.train.classifier import train_classifier

RESULTS = Path(__file__).parent / "results"


def first_of_each_class(dataset: ImageSet, count: int) -> ImageSet:
    """The first `count` images of each class, in the set's order."""
    rows = torch.cat([(dataset.labels == label).nonzero()[:count, 0] for label in range(len(dataset.class_names))])
    rows = rows.sort().values
    return ImageSet(dataset.images[rows], dataset.labels[rows], dataset.class_names)


def crafted_or_kept(name: str, train: ImageSet, config: AttackConfig, arguments: argparse.Namespace) -> Poison:
    """The poison; kept on disk by its settings."""
    settings = json.dumps([name, config.to_dict(), arguments.seed, arguments.per_class, bool(arguments.public)])
    kept = arguments.runs / f"{name}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    if kept.exists():
        return Poison.load(kept)
    public = as_stored(ImageSet.of(arguments.public), train.size) if arguments.public else None

    def progress(what: str, done: int, of: int) -> None:
        if done in (1, of) or done % max(1, of // 10) == 0:
            print(f"  {name}: {what} {done}/{of}", flush=True)

    poison = ATTACKS[name].craft(train, config, seed=arguments.seed, public=public, progress=progress)
    poison.save(kept)
    return poison


def as_stored(public: ImageSet, size: tuple[int, int]) -> ImageSet:
    """Public images as the training set's are: box-filtered to its size, then JPEG of quality 75.

    Otherwise a surrogate tells both sources apart by what compression left in one of them.
    """
    images = F.interpolate(public.images.float(), size=size, mode="area")
    signed = to_signed(to_pixels(images))
    return ImageSet(
        to_uint8(JPEGStage(75)(signed, KeyedNoise(0, torch.arange(len(images))))), public.labels, public.class_names
    )


def trained(images: Tensor, labels: Tensor, arguments: argparse.Namespace, name: str) -> nn.Module:
    """A victim; kept on disk."""
    torch.manual_seed(arguments.seed)
    model = small_classifier(10, arguments.width)
    kept = arguments.runs / f"{name}-{arguments.width}-{arguments.epochs}-{arguments.seed}.safetensors"
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model.eval()
    generator = torch.Generator().manual_seed(arguments.seed)
    for loss in train_classifier(model, images, labels, epochs=arguments.epochs, generator=generator):
        print(f"  loss {loss:.3f}", end="", flush=True)
    print()
    write_atomically(kept, save({key: value.contiguous() for key, value in model.state_dict().items()}))
    return model.eval()


def judged(poison: Poison, victim: nn.Module, clean_victim: nn.Module, test: ImageSet) -> dict[str, Any]:
    """The figures of one attack."""
    triggered, _ = poison.triggered(test.images, test.labels)
    return {
        "attack": poison.attack,
        "recipe": dict(poison.recipe),
        "digest": poison.digest,
        "poisoned_rows": int((~poison.covers).sum()),
        "cover_rows": int(poison.covers.sum()),
        "accuracy": accuracy(victim, test.images, test.labels),
        "success": share_called_target(victim, triggered, poison.target_class),
        "success_never_poisoned": share_called_target(clean_victim, triggered, poison.target_class),
    }


def markdown(record: dict[str, Any]) -> str:
    """The table."""
    clean = record["never_poisoned"]["accuracy"]
    lines = [
        "| attack | poisoned rows | covers | accuracy | attack success | success, never poisoned |",
        "|---|---|---|---|---|---|",
        f"| none | 0 | 0 | {clean:.1%} | – | – |",
    ]
    lines += [
        f"| {row['attack']} | {row['poisoned_rows']} | {row['cover_rows']} | {row['accuracy']:.1%} "
        f"| {row['success']:.1%} | {row['success_never_poisoned']:.1%} |"
        for row in record["attacks"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Craft, train, judge, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--public", help="images of other classes (Parquet), for attacks that learn from such")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS))
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--target", default="airplane")
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--output", type=Path, default=RESULTS / "attacks.json")
    arguments = parser.parse_args()
    train, test = first_of_each_class(ImageSet.of(arguments.train), arguments.per_class), ImageSet.of(arguments.test)
    clean_victim = trained(train.images, train.labels, arguments, f"clean-{arguments.per_class}")
    rows = []
    for name in arguments.attacks:
        started = time.time()
        attack = ATTACKS[name]
        settings = {"target_class": arguments.target}
        config = attack.config.preset(arguments.preset, **settings)
        poison = crafted_or_kept(name, train, config, arguments)
        crafted = time.time() - started
        draw_poison(arguments.runs / f"{name}.png", poison, train.images[poison.ids])
        victim = trained(*poison.apply_to(train.images, train.labels), arguments, f"{name}-{poison.digest[:16]}")
        rows.append({**judged(poison, victim, clean_victim, test), "seconds_to_craft": round(crafted, 1)})
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "benchmark": "attacks",
        "command": "python benchmarks/attacks.py CIFAR10_TRAIN CIFAR10_TEST --public TINY_IMAGENET_TRAIN "
        f"--preset {arguments.preset} "
        f"--target {arguments.target} --per-class {arguments.per_class} --epochs {arguments.epochs} "
        f"--width {arguments.width} --seed {arguments.seed}",
        **describe_machine(),
        "seed": arguments.seed,
        "training_images": len(train),
        "never_poisoned": {"accuracy": accuracy(clean_victim, test.images, test.labels)},
        "attacks": rows,
    }
    write_record(arguments.output, record)
    arguments.output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()

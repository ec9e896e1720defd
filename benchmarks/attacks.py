"""Does each attack on a whole class work? Success and clean accuracy of an undefended victim, beside a clean one.

    uv run python benchmarks/attacks.py CIFAR10_TRAIN_PARQUET CIFAR10_TEST_PARQUET --public TINY_IMAGENET_PARQUET

Contract: one training set (the first `--per-class` images of each class), poisoned by each attack at a preset; on each
a victim of the same network, recipe and seed, and one on the set as it is. Success is the share of test images that
the attack aims at (of other classes, or of its source class) which the victim calls the target once they carry the
trigger; "never poisoned" is the same share for the victim without poison. For NTGA, which has no trigger, what counts
is the accuracy. Attacks aim at the class airplane; Narcissus at three classes. Attackers know neither the victim's
first weights nor the order in which it sees the images.

"Record alone": the trigger is put on the test images from the record's files by a few lines here that use nothing of
the package's attacks, and the success is measured again.

The CIFAR-10 copy is JPEG of quality 75; public images are stored in the same way before a surrogate learns them.

What is finished is kept in `--runs` by the settings and by the content of the poison, so that a killed run goes on
where it was. Attacks on single images: `triggerless_attacks.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn
from victims import ATTACKER, Kept, command_of, kept_networks, kept_poison, parser_of, reporter, trained

from puregen_transforms.attacks import narcissus
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import per_class
from puregen_transforms.evaluate.plots import draw_poison
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.sets import as_stored
from puregen_transforms.evaluate.victim import accuracy, poison_success, share_called_target
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

CLASS = "airplane"
NARCISSUS: list[dict[str, Any]] = [
    *({"target_class": name, "epsilon": 16.0} for name in (CLASS, "cat", "truck", "frog")),
    {"target_class": CLASS, "epsilon": 8.0},
    {"target_class": CLASS, "epsilon": 16.0, "defense_aware": "both"},
]


def cells_of(names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(attack, settings) of every row of the table."""
    cells: list[tuple[str, dict[str, Any]]] = []
    for name in names:
        if name == "narcissus":
            cells += [(name, settings) for settings in NARCISSUS]
        else:
            cells.append((name, {} if name == "ntga" else {"target_class": CLASS}))
    return cells


def crafted(name: str, settings: dict[str, Any], train: ImageSet, arguments: argparse.Namespace) -> Kept:
    """The poison, on which no work is done twice."""
    attack = ATTACKS[name]
    seed = arguments.seed + (ATTACKER if attack.takes("device") else 0)
    config = attack.config.preset(arguments.preset, **settings)
    progress = reporter(name)

    def craft() -> Poison:
        if isinstance(config, narcissus.NarcissusConfig):
            return narcissus_poison(config, train, arguments)
        return attack.craft(train, config, seed=seed, device=arguments.device, progress=progress)

    return kept_poison(arguments, (name, config.to_dict(), seed), craft)


def narcissus_poison(config: narcissus.NarcissusConfig, train: ImageSet, arguments: argparse.Namespace) -> Poison:
    """One surrogate does for all epsilons."""
    seed, progress = arguments.seed + ATTACKER, reporter("narcissus")
    energy = None if config.defense_aware == "none" else load_ebm(resolve_ebm(None))
    public = as_stored(ImageSet.of(arguments.public), train.size)
    parts = {
        key: value
        for key, value in config.to_dict().items()
        if key in ("target_class", "surrogate", "surrogate_epochs") or key.startswith("langevin")
    }
    purified = config.defense_aware in ("surrogate", "both")

    def train_it() -> list[nn.Module]:
        return [
            narcissus.train_on_public(
                train, public, config, energy=energy, seed=seed, device=arguments.device, progress=progress
            )
        ]

    (surrogate,) = kept_networks(
        arguments,
        ("narcissus-surrogate", parts, purified, seed),
        [(config.surrogate, len(public.class_names) + 1, 0.0)],
        train_it,
    )
    return narcissus.craft_with(surrogate, train, config, energy=energy, seed=seed, progress=progress)


def judged(poison: Poison, victim: nn.Module, clean_victim: nn.Module, test: ImageSet) -> dict[str, Any]:
    """The figures of one attack."""
    row = {
        "attack": poison.attack,
        "recipe": dict(poison.recipe),
        "digest": poison.digest,
        "poisoned_rows": int((~poison.covers).sum()),
        "cover_rows": int(poison.covers.sum()),
        "budget": poison.budget,
        "accuracy": accuracy(victim, test.images, test.labels),
    }
    for key, model in (("success", victim), ("success_never_poisoned", clean_victim)):
        if (success := poison_success(model, poison, test.images, test.labels)) is not None:
            row[key] = success
    return row


def success_from_record(folder: Path, victim: nn.Module, test: ImageSet) -> float:
    """Success of an added trigger that is read and applied without the package's own loader."""
    about = json.loads((folder / "poison.json").read_text(encoding="utf-8"))
    pattern = load_file(folder / "poison.safetensors")["trigger.pattern"]
    assert about["trigger"]["form"] == "added"
    others = test.images[test.labels != about["target_class"]].numpy().astype(np.float32)
    triggered = np.rint(others + about["trigger"]["scale"] * pattern).clip(0, 255).astype(np.uint8)
    return share_called_target(victim, torch.from_numpy(triggered), about["target_class"])


def markdown(record: dict[str, Any]) -> str:
    """The table."""
    clean = record["never_poisoned"]["accuracy"]
    lines = [
        "| attack | target | poisoned rows | covers | accuracy | attack success | success, never poisoned |",
        "|---|---|---|---|---|---|---|",
        f"| none | – | 0 | 0 | {clean:.1%} | – | – |",
    ]
    for row in record["attacks"]:
        recipe = row["recipe"]
        aware = recipe.get("defense_aware", "none")
        name = row["attack"] + (f", ε {recipe['epsilon']:g}" if row["attack"] == "narcissus" else "")
        name += "" if aware == "none" else f", knows the EBM ({aware})"
        figures = [f"{row[key]:.1%}" if key in row else "–" for key in ("success", "success_never_poisoned")]
        lines.append(
            f"| {name} | {recipe['target_class'] or '–'} | {row['poisoned_rows']} | {row['cover_rows']} "
            f"| {row['accuracy']:.1%} | {' | '.join(figures)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Craft, train, judge, record."""
    names = [name for name, attack in ATTACKS.items() if not attack.takes("targets")]
    parser = parser_of(__doc__, "attacks.json")
    parser.add_argument("--public", help="images of other classes (Parquet), for Narcissus")
    parser.add_argument("--attacks", nargs="*", default=names)
    arguments = parser.parse_args()
    train, test = per_class(ImageSet.of(arguments.train), 0, arguments.per_class), ImageSet.of(arguments.test)
    clean_victim = trained(train.images, train.labels, arguments, f"clean-{arguments.per_class}")
    rows = []
    for name, settings in cells_of(arguments.attacks):
        kept = crafted(name, settings, train, arguments)
        poison = kept.poison
        victim = trained(*poison.apply_to(train.images, train.labels), arguments, f"{name}-{poison.digest[:16]}")
        row = judged(poison, victim, clean_victim, test)
        if name == "narcissus":
            row["success_from_record"] = success_from_record(kept.folder, victim, test)
        draw_poison(arguments.runs / f"{name}.png", poison, train.images[poison.ids])
        rows.append({**row, "seconds_to_craft": kept.seconds_to_craft})
        print(json.dumps(rows[-1]), flush=True)
    record = {
        "benchmark": "attacks",
        "command": command_of("attacks.py", arguments, "--public TINY_IMAGENET_TRAIN"),
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

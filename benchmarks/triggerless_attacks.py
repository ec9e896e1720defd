"""Do the attacks on single images work? Each with many targets against undefended victims.

    uv run python benchmarks/triggerless_attacks.py CIFAR10_TRAIN_PARQUET CIFAR10_TEST_PARQUET

Gradient matching: a victim is trained from scratch on the poisoned set (the first `--per-class` images of each class)
for every target, an image of the test set. Bullseye Polytope, after the published split: feature extractors learn the
first `--per-class` images of each class, the victim transfers to the images number 4,800 to 4,849 of each class, which
are poisoned, and targets are among the rest. Pairs of true and wanted class are drawn at random; nothing is chosen by
success. A target is a success if the victim calls it the wanted class; "never poisoned" counts the same for a victim
of the same kind on clean images. Attackers know the victim's network and what it is trained on, but neither its first
weights nor the order in which it sees images; for Bullseye Polytope, where said, also the extractor.

What is finished is kept in `--runs`, so that a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from victims import ATTACKER, Kept, command_of, kept_networks, kept_poison, parser_of, reporter, trained

from puregen_transforms.attacks import bullseye_polytope as bullseye
from puregen_transforms.attacks import gradient_matching as matching
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import TransferSplit, per_class, transfer_split
from puregen_transforms.evaluate.plots import draw_poison
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.victim import accuracy, poison_success
from puregen_transforms.train.transfer import fine_tune, linear_transfer


@dataclass(frozen=True)
class Scenario:
    """Bullseye Polytope by how the victim transfers and what the attacker has.

    Args:
        victim: in words.
        transfer: the victim's.
        known: whether the attacker has the feature extractor that the victim starts from, such as a published one;
            else networks of the same kind, trained on the same images.
        settings: of the attack.
    """

    victim: str
    transfer: Callable[..., nn.Module]
    known: bool
    settings: dict[str, Any]


_TUNED = {"mode": "end_to_end", "rate": 0.02}
SCENARIOS = {
    "linear": Scenario("last layer anew", linear_transfer, True, {}),
    "fine_tune": Scenario("all layers tuned", fine_tune, True, _TUNED),
    "linear_unknown": Scenario("last layer anew, extractor unknown to the attacker", linear_transfer, False, {}),
}


def pairs(count: int, classes: int, seed: int) -> list[tuple[int, int]]:
    """(true class, wanted class) of each target, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(classes, generator=generator)[:2].tolist() for _ in range(count)]
    return [(first, second) for first, second in drawn]


def judged(
    kept: Kept, victim: nn.Module, clean_victim: nn.Module, test: ImageSet, index: int, clean_accuracy: float
) -> dict[str, Any]:
    """The figures of one target."""
    poison = kept.poison
    assert poison.target_labels is not None
    success, chance = (poison_success(model, poison, test.images, test.labels) for model in (victim, clean_victim))
    return {
        "target_index": index,
        "source_class": int(poison.target_labels),
        "target_class": poison.target_class,
        "digest": poison.digest,
        "poisoned_rows": len(poison),
        "success": success == 1,
        "success_never_poisoned": chance == 1,
        "accuracy": accuracy(victim, test.images, test.labels),
        "accuracy_never_poisoned": clean_accuracy,
        "seconds_to_craft": kept.seconds_to_craft,
    }


def match_gradients(arguments: argparse.Namespace, train: ImageSet, test: ImageSet) -> list[dict[str, Any]]:
    """Gradient matching: a victim from scratch for each target."""
    seed = arguments.seed + ATTACKER
    general = matching.GradientMatchingConfig.preset(arguments.preset)
    classes = len(train.class_names)
    surrogates = kept_networks(
        arguments,
        ("gradient_matching-surrogate", general.surrogate, general.surrogate_epochs, general.ensemble, seed),
        [(general.surrogate, classes, 0.0)] * general.ensemble,
        lambda: matching.train_surrogates(
            train, general, seed=seed, device=arguments.device, progress=reporter("gradient_matching")
        ),
    )
    clean = trained(train.images, train.labels, arguments, f"clean-{arguments.per_class}")
    clean_accuracy, rows = accuracy(clean, test.images, test.labels), []
    for index, (source, wanted) in enumerate(pairs(arguments.targets, classes, arguments.seed)):
        config = matching.GradientMatchingConfig.preset(
            arguments.preset, source_class=source, target_class=wanted, target_index=index
        )

        def craft(config: matching.GradientMatchingConfig = config) -> Any:
            progress = reporter("gradient_matching")
            return matching.craft_with(surrogates, train, config, targets=test, seed=seed, progress=progress)

        kept = kept_poison(arguments, ("gradient_matching", config.to_dict(), seed), craft)
        poisoned = kept.poison.apply_to(train.images, train.labels)
        victim = trained(*poisoned, arguments, f"gradient_matching-{kept.poison.digest[:16]}")
        if index == 0:
            draw_poison(arguments.runs / "gradient_matching.png", kept.poison, train.images[kept.poison.ids])
        rows.append(judged(kept, victim, clean, test, index, clean_accuracy))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def surround(
    arguments: argparse.Namespace, scenario: Scenario, split: TransferSplit, test: ImageSet, extractor: nn.Module
) -> list[dict[str, Any]]:
    """Bullseye Polytope: a transfer for each target."""
    seed = arguments.seed + ATTACKER
    general = bullseye.BullseyePolytopeConfig.preset(arguments.preset, **scenario.settings)
    classes = len(split.pretrain.class_names)
    kinds = [(name, classes, dropout) for name in general.surrogates for dropout in general.dropouts]
    substitutes = [copy.deepcopy(extractor).to(arguments.device)]
    if not scenario.known:
        substitutes = kept_networks(
            arguments,
            ("bullseye-substitute", kinds, general.surrogate_epochs, seed),
            kinds,
            lambda: bullseye.train_substitutes(
                split.pretrain, general, seed=seed, device=arguments.device, progress=reporter("bullseye")
            ),
        )

    def victim_of(images: Tensor, labels: Tensor) -> nn.Module:
        generator = torch.Generator().manual_seed(arguments.seed)
        return scenario.transfer(extractor, images, labels, classes=classes, generator=generator)

    clean = victim_of(split.fine_tune.images, split.fine_tune.labels)
    clean_accuracy, rows = accuracy(clean, test.images, test.labels), []
    for index, (source, wanted) in enumerate(pairs(arguments.transfer_targets, classes, arguments.seed)):
        config = bullseye.BullseyePolytopeConfig.preset(
            arguments.preset,
            source_class=source,
            target_class=wanted,
            target_index=index,
            **scenario.settings,
        )

        def craft(config: bullseye.BullseyePolytopeConfig = config) -> Any:
            return bullseye.craft_with(substitutes, split.fine_tune, config, targets=split.targets, seed=seed)

        kept = kept_poison(arguments, ("bullseye_polytope", config.to_dict(), scenario.known, seed), craft)
        victim = victim_of(*kept.poison.apply_to(split.fine_tune.images, split.fine_tune.labels))
        if index == 0:
            originals = split.fine_tune.images[kept.poison.ids]
            draw_poison(arguments.runs / f"bullseye_polytope-{config.mode}.png", kept.poison, originals)
        rows.append(judged(kept, victim, clean, test, index, clean_accuracy))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def markdown(record: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| attack | victim | poisoned rows | targets hit | hit, never poisoned | accuracy | accuracy, never poisoned |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in record["attacks"].values():
        rows = part["targets"]
        hits, chance = (sum(row[key] for row in rows) for key in ("success", "success_never_poisoned"))
        means = [sum(row[key] for row in rows) / len(rows) for key in ("accuracy", "accuracy_never_poisoned")]
        lines.append(
            f"| {part['attack']} | {part['victim']} | {rows[0]['poisoned_rows']} of {part['rows']} "
            f"| {hits} of {len(rows)} | {chance} | {means[0]:.1%} | {means[1]:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Craft, train, judge, record."""
    parser = parser_of(__doc__, "triggerless_attacks.json")
    parser.add_argument("--targets", type=int, default=10, help="of gradient matching")
    parser.add_argument("--transfer-targets", type=int, default=20, help="of Bullseye Polytope, in each scenario")
    arguments = parser.parse_args()
    full, test = ImageSet.of(arguments.train), ImageSet.of(arguments.test)
    train, split = per_class(full, 0, arguments.per_class), transfer_split(full)
    split = TransferSplit(train, split.fine_tune, split.targets)
    extractor = trained(train.images, train.labels, arguments, f"clean-{arguments.per_class}")
    attacks: dict[str, Any] = {}
    for name, scenario in SCENARIOS.items():
        attacks[f"bullseye_polytope_{name}"] = {
            "attack": "bullseye_polytope",
            "victim": scenario.victim,
            "rows": len(split.fine_tune),
            "recipe": bullseye.BullseyePolytopeConfig.preset(arguments.preset, **scenario.settings).to_dict(),
            "targets": surround(arguments, scenario, split, test, extractor),
        }
    attacks["gradient_matching"] = {
        "attack": "gradient_matching",
        "victim": "from scratch",
        "rows": len(train),
        "recipe": matching.GradientMatchingConfig.preset(arguments.preset).to_dict(),
        "targets": match_gradients(arguments, train, test),
    }
    record = {
        "benchmark": "triggerless_attacks",
        "command": command_of(
            "triggerless_attacks.py",
            arguments,
            f"--targets {arguments.targets} --transfer-targets {arguments.transfer_targets}",
        ),
        **describe_machine(),
        "seed": arguments.seed,
        "attacks": attacks,
    }
    write_record(arguments.output, record)
    arguments.output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()

"""How often the energies of `puregen inspect` cry wolf on clean images, and how often they find poison.

    uv run python benchmarks/inspect_false_alarms.py CIFAR10_TEST_PARQUET TINY_IMAGENET_PARQUET

Contract: energies and energy gradients are measured once, with the packaged checkpoint; the verdict
(`judge`, as `puregen inspect` calls it) is then taken on many sets put together from them.

- False alarms: the whole CIFAR-10 test set (a public JPEG copy), its five disjoint fifths, random
  subsets of 2,000 with and without labels; the same of Tiny ImageNet (40 classes, box-filtered to
  32 px, no JPEG grid left). None holds poison, so every "suspicious" is a false alarm.
- Detection: in the whole CIFAR-10 test set, the demo trigger is added to the images of one class:
  10 of 1,000 (0.1 % of the set) at eps 4, 8 and 16/255, 5 of 1,000 at eps 8, and 100 of 1,000 at
  eps 8. "Named first" means that this class stands first in the table and is called suspicious.
- Crowded classes: 400 of 1,000 images of one class get noise of their own, eps/255 with random signs, at eps 8 and
  16. "Named alone" means that this class and no other is called unusual; nothing is shared, so none is suspicious.

One trigger, one checkpoint; random subsets of one set overlap, so they are not independent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms import __version__
from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.data.sources import load_image_tensor, open_source
from puregen_transforms.detection.findings import CLEAR, OUTLIER, SUSPICIOUS, UNUSUAL, Findings
from puregen_transforms.detection.measure import ImageMeter
from puregen_transforms.detection.pattern_search import search
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.ebm_inference import FrozenEBM

RESULTS = Path(__file__).parent / "results"
SIZE = (32, 32)


@dataclass(frozen=True)
class Measured:
    """Energies, gradients and thumbnails of a set, and its labels."""

    energies: Tensor
    gradients: Tensor
    pictures: Tensor
    labels: Tensor

    def subset(self, rows: Tensor) -> Measured:
        """Choose some of the images."""
        return Measured(self.energies[rows], self.gradients[rows], self.pictures[rows], self.labels[rows])

    def with_poison(self, rows: Tensor, poison: Measured) -> Measured:
        """Replace some images."""
        changed = replace(self, energies=self.energies.clone(), gradients=self.gradients.clone())
        changed.energies[rows], changed.gradients[rows] = poison.energies, poison.gradients
        return changed

    def judged(self, *, labels: bool = True, names: Sequence[str] = (), seed: int = 0) -> Findings:
        """Search this set."""

        def lookup(rows: Sequence[int]) -> tuple[Tensor, Tensor]:
            index = torch.as_tensor(rows)
            return self.gradients[index], self.pictures[index]

        return search(
            self.energies, lookup, size=SIZE, labels=self.labels if labels else None, class_names=names, seed=seed
        )


def measure(images: Tensor, labels: Tensor, network: FrozenEBM) -> Measured:
    """Look at every image once."""
    meter = ImageMeter(images, network, smallest=4, device=torch.device("cpu"))
    energies, _ = meter.energies(lambda what, done, total: None)
    parts = [meter.gradients(rows.tolist()) for rows in torch.arange(len(images)).split(500)]
    return Measured(energies, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)), labels)


def alarms(sets: Sequence[Callable[[], Findings]]) -> dict[str, Any]:
    """Verdicts on sets without poison."""
    found = [take() for take in sets]
    levels = [findings.level for findings in found]
    p_values = [
        group.pattern_p
        for findings in found
        for group in (findings.whole, *findings.classes)
        if group.pattern_p is not None
    ]
    excess = [
        group.similarity - group.expected
        for findings in found
        for group in (findings.whole, *findings.classes)
        if group.similarity is not None and group.expected is not None
    ]
    return {
        "sets": len(found),
        "groups_tested": len(p_values),
        **{level: levels.count(level) for level in (SUSPICIOUS, UNUSUAL, CLEAR)},
        "smallest_corrected_p": min(p_values),
        "largest_similarity_above_expected": max(excess),
    }


def detection(clean: Measured, poisons: dict[int, tuple[Tensor, Measured]], *, labels: bool = True) -> dict[str, Any]:
    """Verdicts with one class poisoned, for several classes in turn."""
    named, suspicious, carriers, false_carriers, excess = [], [], [], [], []
    for label, (rows, poison) in poisons.items():
        findings = clean.with_poison(rows, poison).judged(labels=labels, names=CLASSES)
        suspicious.append(findings.level == SUSPICIOUS)
        if labels:
            first = findings.classes[0]
            named.append(first.label == label and first.level == SUSPICIOUS)
        found = {row for pattern in findings.patterns for row in pattern.carriers}
        carriers.append(len(found & set(rows.tolist())) / len(rows))
        false_carriers.append(len(found - set(rows.tolist())))
        group = findings.classes[0] if labels else findings.whole
        if group.similarity is not None and group.expected is not None:
            excess.append(group.similarity - group.expected)
    return {
        "classes": [CLASSES[label] for label in poisons],
        "images_poisoned": len(next(iter(poisons.values()))[0]),
        "suspicious": sum(suspicious),
        **({"named_first": sum(named)} if labels else {}),
        "share_of_poison_found": sum(carriers) / len(carriers),
        "clean_images_taken_for_poison": sum(false_carriers),
        "smallest_similarity_above_expected": min(excess),
    }


def crowding(clean: Measured, poisons: dict[int, tuple[Tensor, Measured]]) -> dict[str, Any]:
    """Verdicts with much of one class perturbed, each image by itself."""
    named, outliers, false_outliers = [], [], []
    for label, (rows, poison) in poisons.items():
        findings = clean.with_poison(rows, poison).judged(names=CLASSES)
        named.append([group.label for group in findings.classes if group.level != CLEAR] == [label])
        found = set((findings.scores > OUTLIER).nonzero().flatten().tolist())
        outliers.append(len(found & set(rows.tolist())) / len(rows))
        false_outliers.append(len(found - set(rows.tolist())))
    return {
        "classes": [CLASSES[label] for label in poisons],
        "images_poisoned": len(next(iter(poisons.values()))[0]),
        "named_alone": sum(named),
        "share_of_poison_above_outlier": sum(outliers) / len(outliers),
        "clean_images_above_outlier": sum(false_outliers) / len(false_outliers),
    }


def markdown(record: dict[str, Any]) -> str:
    """Write the record as two tables: sets without poison, and sets with some."""
    lines = ["| clean set | sets | called suspicious | called unusual |", "|---|---|---|---|"]
    for name, sets in record["false_alarms"].items():
        for kind, found in sets.items():
            lines.append(f"| {name}, {kind} | {found['sets']} | {found[SUSPICIOUS]} | {found[UNUSUAL]} |")
    lines += ["", "| poisoned, one class at a time | classes | class named | poisoned images found | others flagged |"]
    lines.append("|---|---|---|---|---|")
    for words, found in record["detection"].items():
        named = f"{found['named_first']} first" if "named_first" in found else "–"
        share, wrong = f"{found['share_of_poison_found']:.0%}", found["clean_images_taken_for_poison"]
        lines.append(f"| {words} | {len(found['classes'])} | {named} | {share} | {wrong} |")
    for words, found in record["crowded"].items():
        share = f"{found['share_of_poison_above_outlier']:.0%} by their energy"
        wrong = f"{found['clean_images_above_outlier']:.1f} on average"
        lines.append(f"| {words} | {len(found['classes'])} | {found['named_alone']} alone | {share} | {wrong} |")
    lines += ["", f"`{record['command']}`; energies of {record['checkpoint']}; {record['machine']}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("tiny_imagenet", help="Tiny ImageNet images (Parquet)")
    parser.add_argument("--subsets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "inspect.json")
    arguments = parser.parse_args()
    started, started_cpu = time.perf_counter(), time.process_time()
    checkpoint = resolve_ebm(None)
    network = FrozenEBM(load_ebm(checkpoint))
    images, sets = {}, {}
    for name, source in (("cifar10", arguments.cifar10), ("tiny_imagenet", arguments.tiny_imagenet)):
        images[name] = load_image_tensor(source, image_size=32)
        sets[name] = measure(images[name], torch.tensor(open_source(source)["train"]["label"]), network)
        print(name, len(images[name]), "measured", round(time.perf_counter() - started), "s", flush=True)
    generator = torch.Generator().manual_seed(arguments.seed)
    record: dict[str, Any] = {
        "benchmark": "inspect_false_alarms",
        "command": "python benchmarks/inspect_false_alarms.py cifar10-jpeg-test.parquet tiny-imagenet-40-train.parquet "
        f"--subsets {arguments.subsets} --seed {arguments.seed}",
        "checkpoint": checkpoint.reference,
        "weights_sha256": checkpoint.sha256,
        "seed": arguments.seed,
        "false_alarms": {},
        "detection": {},
    }
    for name, clean in sets.items():
        found = record["false_alarms"][name] = {}
        order = torch.randperm(len(clean.labels), generator=generator)
        fifths = [clean.subset(rows) for rows in order.chunk(5)]
        count = arguments.subsets if name == "cifar10" else arguments.subsets // 2
        subsets = [clean.subset(torch.randperm(len(clean.labels), generator=generator)[:2000]) for _ in range(count)]
        found["whole"] = alarms([clean.judged])
        found["whole, without labels"] = alarms([lambda clean=clean: clean.judged(labels=False)])
        found["disjoint fifths"] = alarms([part.judged for part in fifths])
        found["random subsets of 2000"] = alarms([part.judged for part in subsets])
        found["random subsets of 2000, without labels"] = alarms(
            [lambda part=part: part.judged(labels=False) for part in subsets[:10]]
        )
        print(name, json.dumps(found, indent=1), round(time.perf_counter() - started), "s", flush=True)
    clean, trigger = sets["cifar10"], load_demo().trigger.float()

    def poisoned(eps: float, count: int, classes: Sequence[int]) -> dict[int, tuple[Tensor, Measured]]:
        found = {}
        for label in classes:
            members = (clean.labels == label).nonzero().flatten()
            rows = members[torch.randperm(len(members), generator=generator)[:count]]
            changed = add_trigger(images["cifar10"][rows], (trigger * eps / 8).round())
            found[label] = (rows, measure(changed, clean.labels[rows], network))
        return found

    every, some = range(10), (1, 4, 6, 8)
    for words, eps, count, classes, labels in (
        ("10 images at eps 8", 8, 10, every, True),
        ("10 images at eps 16", 16, 10, every, True),
        ("10 images at eps 4", 4, 10, some, True),
        ("5 images at eps 8", 8, 5, some, True),
        ("100 images at eps 8", 8, 100, some, True),
        ("10 images at eps 8, without labels", 8, 10, some, False),
    ):
        record["detection"][words] = detection(clean, poisoned(eps, count, classes), labels=labels)
        print(words, json.dumps(record["detection"][words]), round(time.perf_counter() - started), "s", flush=True)
    record["crowded"] = {}
    for eps in (8, 16):
        noisy = {}
        for label in every:
            members = (clean.labels == label).nonzero().flatten()
            rows = members[torch.randperm(len(members), generator=generator)[:400]]
            noise = eps * torch.randn(400, 3, *SIZE, generator=generator).sign()
            changed = (images["cifar10"][rows] + noise).clamp(0, 255).to(torch.uint8)
            noisy[label] = (rows, measure(changed, clean.labels[rows], network))
        record["crowded"][f"400 images with noise at eps {eps}"] = words = crowding(clean, noisy)
        print(json.dumps(words), flush=True)
    record |= {
        "cpu_seconds": round(time.process_time() - started_cpu),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {
            "puregen_transforms": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

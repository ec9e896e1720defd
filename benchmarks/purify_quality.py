"""What each method costs a clean image, and what it leaves of a trigger.

    uv run python benchmarks/purify_quality.py CIFAR10_TEST_PARQUET TINY_IMAGENET_VAL_PARQUET

Contract: two image sets that no packaged generator has seen: the first images of the CIFAR-10 test set (a JPEG
copy, which flatters JPEG as a rival at quality 75 and 85), and Tiny ImageNet box-filtered to 32 px, which has no
JPEG grid. Each is taken clean and, the first `--poisoned` of it, with the demo trigger (universal, optimized against a
classifier) at eps 8/255 and, doubled, at 16/255. Every method purifies the same images, with the same noise for a
clean image and its poisoned copy. Reported: PSNR of the purified clean images from the mean squared error over the set;
the share of the trigger left along its own direction (`survival`) and in any (`remaining_norm`); AUROC of the default
EBM's energy between clean and poisoned images, before and after; images a second on this machine, networks already
loaded.

Thresholds of "filt" and "adaptive" are fitted without labels, to the clean images and as many poisoned ones (eps 16)
as make 1 %. Finished cells are kept in `--cache`, so a run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from puregen_transforms import PureGen
from puregen_transforms._files import hash_file
from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.data.sources import load_image_tensor
from puregen_transforms.evaluate.plots import draw_solvers, draw_tradeoff
from puregen_transforms.evaluate.portable import portable
from puregen_transforms.evaluate.quality import judge
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.rows import PUBLISHED_ECLIPSE
from puregen_transforms.evaluate.store import fingerprint
from puregen_transforms.hub.ddpm import resolve_ddpm
from puregen_transforms.hub.ebm import resolve_ebm

RESULTS = Path(__file__).parent / "results"
BUDGETS = (8, 16)

METHODS: dict[str, dict[str, Any]] = {
    "jpeg 25": {"method": "jpeg", "jpeg_quality": 25},
    "jpeg 50": {"method": "jpeg", "jpeg_quality": 50},
    "jpeg 75": {"method": "jpeg", "jpeg_quality": 75},
    "jpeg 85": {"method": "jpeg", "jpeg_quality": 85},
    "ebm, paper": {"method": "ebm", "dynamics": "paper"},
    "ebm, cooled (default)": {"method": "ebm", "dynamics": "cooled"},
    "ebm, annealed": {"method": "ebm", "dynamics": "annealed"},
    "ebm, annealed, 75 steps": {"method": "ebm", "dynamics": "annealed", "ebm_steps": 75},
    "ebm, annealed, T/2": {"method": "ebm", "dynamics": "annealed", "temperature": 5e-5},
    "ddpm": {"method": "ddpm"},
    "ddpm, 15 calls": {"method": "ddpm", "ddpm_inference_steps": 15},
    "ddim, 15 calls": {"method": "ddpm", "ddpm_solver": "ddim", "ddpm_inference_steps": 15},
    "dpmsolver++, 15 calls": {"method": "ddpm", "ddpm_solver": "dpmsolver++", "ddpm_inference_steps": 15},
    "ddpm 40, 8 calls": {"method": "ddpm", "ddpm_steps": 40, "ddpm_inference_steps": 8},
    "ddim 40, 1 call": {"method": "ddpm", "ddpm_steps": 40, "ddpm_solver": "ddim", "ddpm_inference_steps": 1},
    "ddim 75, 1 call": {"method": "ddpm", "ddpm_solver": "ddim", "ddpm_inference_steps": 1},
    "naive": {"method": "naive", "ddpm_inference_steps": 15},
    "reps": {"method": "reps", "ddpm_inference_steps": 10},
    "filt": {"method": "filt", "ddpm_inference_steps": 25},
    "adaptive": {"method": "adaptive", "ddpm_inference_steps": 15},
    "eclipse": {"method": "eclipse"},
    "eclipse, as published": {"method": "eclipse", **PUBLISHED_ECLIPSE},
}
"""Diffusion inside combinations is run with fewer calls: `ddpm` beside `ddpm, 15 calls` shows what that costs."""

SOLVERS = {
    "ddpm": {"ddpm_solver": "ddpm"},
    "ddim": {"ddpm_solver": "ddim"},
    "dpmsolver++": {"ddpm_solver": "dpmsolver++"},
    "ddpm, noised to 80": {"ddpm_solver": "ddpm", "ddpm_steps": 80},
}
"""Few ancestral steps restore a little more than many; noising a little further makes up for it."""

CALLS = (3, 5, 8, 15, 25)


def load_sets(arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Read the clean images, by the set's name."""
    return {
        "cifar10": load_image_tensor(arguments.cifar10)[: arguments.images],
        "tiny-imagenet-box32": load_image_tensor(arguments.tiny, image_size=32)[: arguments.tiny_images],
    }


def cell(
    folder: Path, purify: PureGen, clean: Tensor, poisoned: dict[int, Tensor], detector: PureGen
) -> dict[str, Any]:
    """Judge one method on one set, or take the kept result."""
    if purify.config.uses_threshold:
        share = max(1, len(clean) // 100)
        purify.fit(torch.cat([clean[share:], poisoned[16][:share]]))
    content = fingerprint(clean, *poisoned.values(), torch.tensor(list(poisoned)))
    path = folder / f"{purify.digest[:16]}-{detector.digest[:16]}-{content}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    result = {"recipe": portable(purify.to_dict()), **judge(purify, clean, poisoned, detector.energy).to_dict()}
    write_record(path, result)
    return result


def markdown(record: dict[str, Any]) -> str:
    """Format the record as a table for RESULTS.md."""
    lines = []
    for name, methods in record["sets"].items():
        count = next(iter(methods.values()))["images"]
        lines += [f"**{name}**, {count} images", ""]
        lines.append(
            "| method | PSNR clean | left at ε 8 | left at ε 16 | L2 left 8 / 16 | AUROC 8 | AUROC 16 | images/s |"
        )
        lines.append("|---|---|---|---|---|---|---|---|")
        for method, row in methods.items():
            a, b = row["attacks"]["8"], row["attacks"]["16"]
            trap = " (trap)" if name == "cifar10" and method in ("jpeg 75", "jpeg 85") else ""
            lines.append(
                f"| {method}{trap} | {row['psnr_clean']:.1f} | {a['survival']:.2f} | {b['survival']:.2f} "
                f"| {a['remaining_norm']:.2f} / {b['remaining_norm']:.2f} "
                f"| {a['auroc_before']:.2f} → {a['auroc_after']:.2f} "
                f"| {b['auroc_before']:.2f} → {b['auroc_after']:.2f} "
                f"| {row['images_per_second']:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("tiny", help="Tiny ImageNet validation images (Parquet)")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--tiny-images", type=int, default=400)
    parser.add_argument("--poisoned", type=int, default=500, help="images of each set that are purified poisoned, too")
    parser.add_argument("--solver-images", type=int, default=150)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--checkpoint", help="energy network; default: the packaged one")
    parser.add_argument("--ddpm-checkpoint", help="diffusion network; default: the packaged one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/purify_quality"))
    parser.add_argument("--output", type=Path, default=RESULTS / "purify_quality.json")
    arguments = parser.parse_args()
    trigger = load_demo().trigger.int()
    detector = PureGen("ebm", checkpoint=arguments.checkpoint)

    def make(**settings: Any) -> PureGen:
        purify = PureGen(**settings, seed=arguments.seed)
        given = {"checkpoint": arguments.checkpoint if purify.config.uses_ebm else None}
        given["ddpm_checkpoint"] = arguments.ddpm_checkpoint if purify.config.uses_ddpm else None
        return PureGen(**settings, **given, seed=arguments.seed)

    record: dict[str, Any] = {
        "benchmark": "purify_quality",
        "command": "python benchmarks/purify_quality.py cifar10-jpeg-test.parquet tiny-imagenet-40-val.parquet "
        f"--images {arguments.images} --tiny-images {arguments.tiny_images} --poisoned {arguments.poisoned} "
        f"--solver-images {arguments.solver_images} --seed {arguments.seed}",
        "seed": arguments.seed,
        "weights_sha256": {
            "ebm": resolve_ebm(arguments.checkpoint).sha256,
            "ddpm": hash_file(resolve_ddpm(arguments.ddpm_checkpoint).weights),
        },
        **describe_machine(),
        "sets": {},
        "solvers": [],
    }
    for name, clean in load_sets(arguments).items():
        poisoned = {budget: add_trigger(clean[: arguments.poisoned], trigger * (budget // 8)) for budget in BUDGETS}
        record["sets"][name] = {}
        for method in arguments.methods:
            result = cell(arguments.cache, make(**METHODS[method]), clean, poisoned, detector)
            record["sets"][name][method] = result
            attack = result["attacks"]["16"]
            print(f"{name}: {method}: {result['psnr_clean']:.2f} dB, {attack['survival']:.3f} left", flush=True)
        if name == "cifar10":
            few, attacked = clean[: arguments.solver_images], {16: poisoned[16][: arguments.solver_images]}
            for solver, settings in SOLVERS.items():
                for calls in (*CALLS, 75) if solver == "ddpm" else CALLS:
                    purify = make(method="ddpm", **settings, ddpm_inference_steps=calls)
                    result = cell(arguments.cache, purify, few, attacked, detector)
                    record["solvers"].append({"solver": solver, "calls": calls, **result})
                    print(f"{solver} {calls}: {result['psnr_clean']:.2f}", flush=True)
    write_record(arguments.output, record)
    draw_tradeoff(
        arguments.output.with_suffix(".png"),
        {
            name: {method: (row["psnr_clean"], row["attacks"]["16"]["survival"]) for method, row in methods.items()}
            for name, methods in record["sets"].items()
        },
    )
    if record["solvers"]:
        draw_solvers(arguments.output.with_name(f"{arguments.output.stem}_solvers.png"), record["solvers"])
    arguments.output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()

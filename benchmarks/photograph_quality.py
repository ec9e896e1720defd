"""What each method costs a photograph of 224 pixels, and what it leaves of a trigger made at that size.

    uv run python benchmarks/photograph_quality.py CLOTHING_TRAIN CLOTHING_TEST

Contract: photographs of clothing of ten classes, which no packaged network has seen, the shorter side resized to 224
pixels and the center cropped.

- The trigger is one pattern of at most 16/255 for all images, as Narcissus makes it: a linear classifier learns the
  classes from the training photographs by the features of EfficientNet-Lite0 (the extra `features`), and 200 signed
  gradient steps on 8 photographs each raise the score of the class that is the largest. Half of it is the trigger of
  8/255.
- Every method purifies the first test photographs, clean and with either trigger, with the same noise for a photograph
  and its poisoned copies. PSNR and SSIM of the purified clean ones against what they were; the share of the trigger
  left along its own direction, as in `purify_quality.py`; the shift of the mean color; how many of the poisoned
  photographs of other classes that classifier calls the target, before and after; and seconds a photograph.
- `onestep` at several levels of noise gives a curve: what it costs at the share that another method leaves.

Finished methods are kept in the output file: after a kill the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from puregen_transforms import PureGen
from puregen_transforms._files import write_atomically
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.metrics import psnr_of_set, ssim, survival
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.hub.backbones import Backbone, load_backbone

RESULTS = Path(__file__).parent / "results"
SIDE, BUDGET, BUDGETS, STEPS, BATCH = 224, 16, (8, 16), 200, 8
LEVELS = (6.0, 10.0, 15.0, 20.0, 25.0, 35.0, 50.0, 70.0)

METHODS: dict[str, dict[str, Any]] = {
    **{f"onestep {level:g}": {"method": "onestep", "noise_level": level} for level in LEVELS},
    **{f"jpeg {quality}": {"method": "jpeg", "jpeg_quality": quality} for quality in (10, 25, 50, 75)},
    "ddim 75, 1 call": {"method": "ddpm", "ddpm_solver": "ddim", "ddpm_inference_steps": 1},
    "ddpm, 15 calls": {"method": "ddpm", "ddpm_inference_steps": 15},
    "ebm, cooled": {"method": "ebm"},
}


class Judge(nn.Module):
    """A linear classifier on the features of a frozen network: (N, 3, H, W) float of 0 ... 255 -> (N, classes).

    Args:
        backbone: the network.
        photographs: that it learns from.
    """

    def __init__(self, backbone: Backbone, photographs: ImageSet) -> None:
        super().__init__()
        self.network = backbone.network.requires_grad_(False)
        self.mean, self.std = (torch.tensor(part).view(1, 3, 1, 1) for part in (backbone.mean, backbone.std))
        with torch.no_grad():
            known = torch.cat([self._features(part.float()) for part in photographs.images.split(32)])
        self.center, self.scale = known.mean(0), known.std(0).clamp_min(1e-6)
        self.last = nn.Linear(known.shape[1], len(photographs.class_names))
        rows = (known - self.center) / self.scale
        optimizer = torch.optim.LBFGS(self.last.parameters(), max_iter=100)

        def loss() -> Tensor:
            optimizer.zero_grad()
            weights = self.last.weight.square().sum()
            value: Tensor = F.cross_entropy(self.last(rows), photographs.labels) + 1e-2 * weights
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Score images."""
        scores: Tensor = self.last((self._features(images) - self.center) / self.scale)
        return scores

    def _features(self, images: Tensor) -> Tensor:
        found: Tensor = self.network((images / 255 - self.mean) / self.std)
        return found

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Name the class of (N, 3, H, W) uint8 images."""
        return torch.cat([self(part.float()).argmax(1) for part in images.split(32)])


def craft(judge: Judge, photographs: ImageSet, target: int, steps: int) -> Tensor:
    """Optimize one pattern for all images: (3, H, W), of at most `BUDGET`."""
    generator = torch.Generator().manual_seed(0)
    pattern = torch.zeros(3, *photographs.size)
    for step in range(steps):
        rows = torch.randint(len(photographs), (BATCH,), generator=generator)
        pattern.requires_grad_()
        shown = (photographs.images[rows].float() + pattern).clamp(0, 255)
        loss = F.cross_entropy(judge(shown), torch.full((BATCH,), target))
        (slope,) = torch.autograd.grad(loss, pattern)
        rate = 2.0 * (1 - step / steps)
        pattern = (pattern.detach() - rate * slope.sign()).clamp(-BUDGET, BUDGET)
    return pattern.round()


def kept_trigger(path: Path, judge: Judge, photographs: ImageSet, target: int, steps: int) -> Tensor:
    """Craft the trigger, or read it."""
    if not path.exists():
        write_atomically(path, save({"pattern": craft(judge, photographs, target, steps)}))
    return load_file(path)["pattern"]


def measure(purify: PureGen, test: ImageSet, trigger: Tensor, judge: Judge, target: int) -> dict[str, Any]:
    """Purify photographs, clean and poisoned, and measure."""
    clean, others = test.images, test.labels != target
    ids = torch.arange(len(clean))

    def run(images: Tensor) -> Tensor:
        return purify.purifier(images, sample_ids=ids, seed=0)

    purify(clean[:1])
    started = time.perf_counter()
    cleaned = run(clean)
    seconds = (time.perf_counter() - started) / len(clean)
    shift = (cleaned.float() - clean.float()).mean((2, 3))
    found: dict[str, Any] = {
        "seconds": seconds,
        "psnr": psnr_of_set(cleaned, clean),
        "ssim": ssim(cleaned, clean).mean().item(),
        "color_shift": shift.abs().mean().item(),
        "largest_color_shift": shift.abs().max().item(),
        "right": (judge.predict(cleaned) == test.labels).float().mean().item(),
        "left": {},
        "called_target": {},
    }
    for budget in BUDGETS:
        poisoned = to_pixels(clean.float() + trigger * (budget / BUDGET))
        purified = run(poisoned)
        found["left"][str(budget)] = survival(clean, poisoned, cleaned, purified).mean().item()
        called = judge.predict(purified)[others] == target
        found["called_target"][str(budget)] = called.float().mean().item()
    return found


def psnr_at(rows: dict[str, dict[str, Any]], left: float, budget: str) -> float | None:
    """Interpolate the PSNR at which `onestep` leaves a share; None where none of its levels is near."""
    curve = sorted((row["left"][budget], row["psnr"]) for name, row in rows.items() if name.startswith("onestep"))
    for (low, low_psnr), (high, high_psnr) in pairwise(curve):
        if low <= left <= high:
            share = (left - low) / max(1e-9, high - low)
            return float(low_psnr + share * (high_psnr - low_psnr))
    return None


def markdown(record: dict[str, Any]) -> str:
    """Write the table."""
    before = record["before"]
    lines = [
        "| method | PSNR | SSIM | mean color moves by | left, ε 8 | left, ε 16 | called the target, ε 8 | ε 16 | "
        "right class | s a photograph | onestep at the same share left, ε 16 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        f"| none | – | 1 | 0 | 1 | 1 | {before['called_target']['8']:.0%} | {before['called_target']['16']:.0%} "
        f"| {before['right']:.0%} | – | – |",
    ]
    for name, row in record["methods"].items():
        equal = None if name.startswith("onestep") else psnr_at(record["methods"], row["left"]["16"], "16")
        called, left = row["called_target"], row["left"]
        lines.append(
            f"| {name} | {row['psnr']:.1f} | {row['ssim']:.3f} | {row['color_shift']:.2f} | {left['8']:.2f} "
            f"| {left['16']:.2f} | {called['8']:.0%} | {called['16']:.0%} | {row['right']:.0%} | {row['seconds']:.2f} "
            f"| {'–' if equal is None else f'{equal:.1f} dB'} |"
        )
    options = f"--photographs {record['photographs']}"
    if record.get("steps", STEPS) != STEPS:
        options += f" --known {record['known']} --steps {record['steps']}"
    command = f"python benchmarks/photograph_quality.py clothing-train clothing-test {options}"
    return "\n".join(lines) + f"\n\n`{command}`; {record['machine']}.\n"


def main() -> None:
    """Measure what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="clothing photographs that the trigger is made with (Parquet)")
    parser.add_argument("test", help="clothing photographs that are purified (Parquet)")
    parser.add_argument("--photographs", type=int, default=32)
    parser.add_argument("--known", type=int, help="training photographs that the classifier learns from; default: all")
    parser.add_argument("--steps", type=int, default=STEPS, help="in which the trigger is made")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--denoiser-checkpoint", help="network of onestep; default: the packaged one")
    parser.add_argument("--runs", type=Path, default=Path("runs/photographs"))
    parser.add_argument("--output", type=Path, default=RESULTS / "photograph_quality.json")
    arguments = parser.parse_args()
    train = ImageSet.load(arguments.train, size=SIDE)
    test = ImageSet.load(arguments.test, size=SIDE)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    test = test.subset(order[: arguments.photographs].sort().values)
    if arguments.known is not None:
        known = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: arguments.known]
        train = train.subset(known.sort().values)
    target = int(train.labels.bincount().argmax())
    judge = Judge(load_backbone(), train)
    trigger = kept_trigger(arguments.runs / "trigger.safetensors", judge, train, target, arguments.steps)

    record: dict[str, Any] = {"benchmark": "photograph_quality", "methods": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    others = test.labels != target
    triggered = {budget: to_pixels(test.images.float() + trigger * (budget / BUDGET)) for budget in BUDGETS}
    record["before"] = {
        "right": (judge.predict(test.images) == test.labels).float().mean().item(),
        "called_target": {
            str(budget): (judge.predict(images)[others] == target).float().mean().item()
            for budget, images in triggered.items()
        },
    }
    record |= {
        "photographs": len(test),
        "known": len(train),
        "steps": arguments.steps,
        "target": train.class_names[target],
        **describe_machine(),
    }
    for name in arguments.methods:
        if name in record["methods"]:
            continue
        options = METHODS[name]
        if options["method"] == "onestep":
            options = {**options, "denoiser_checkpoint": arguments.denoiser_checkpoint}
        record["methods"][name] = measure(PureGen(**options, seed=0), test, trigger, judge, target)
        write_record(arguments.output, record)
        print(name, json.dumps(record["methods"][name]), flush=True)
    record["methods"] = {name: record["methods"][name] for name in METHODS if name in record["methods"]}
    write_record(arguments.output, record)
    print(markdown(record))


if __name__ == "__main__":
    main()

"""Whether an image is purified to the same bytes in every way, and how far two arithmetics are apart.

    uv run python benchmarks/reproducibility.py

Contract: the packaged networks, `--images` demonstration images, one seed, every method at its own steps; diffusion
takes `--calls` network calls at most. First, on this machine and in each dtype: all images in one call are the
reference, and each other way has to give the same bytes: one by one, in batches of 7, shuffled, on 1 and on 2 threads,
through `datasets.map` (one process and two) and through a `DataLoader` with two workers. Then the same call is made in
other arithmetics (float32 with AVX2 alone, in a process of its own; bfloat16 where the hardware has it), on clean
images and on poisoned ones (demo trigger, eps 16/255), where bytes may differ: reported are the differences, and the
figures of merit of both, which should not.

With `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` set, the first part is that of a
processor without AVX-512, and there is no second.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from puregen_transforms import PureGen
from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.evaluate.metrics import psnr_of_set, survival
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.arithmetic import has_bfloat16
from puregen_transforms.purifier.puregen_config import METHODS

RESULTS = Path(__file__).parent / "results"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CPU = torch.device("cpu")


def transform(method: str, dtype: str, calls: int, images: Tensor, device: str = "cpu") -> PureGen:
    """Make the transform of a method, its threshold fitted."""
    purify = PureGen(method, dtype=dtype, seed=0, device=device)
    if purify.config.ddpm_steps:
        most = min(calls, purify.config.ddpm_steps)
        purify = PureGen(**{**purify.to_dict(), "ddpm_inference_steps": most}, device=device)
    return purify.fit(images) if purify.config.uses_threshold else purify


def as_rows(images: Tensor) -> Dataset:
    """Make a data set of PNG images."""
    pixels = list(images.permute(0, 2, 3, 1).numpy())
    return Dataset.from_dict(
        {"image": pixels, "row": range(len(pixels))}, Features({"image": Image(), "row": Value("int64")})
    )


def from_rows(rows: Dataset) -> Tensor:
    """Read the images back."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in rows["image"]])).permute(0, 3, 1, 2)


def ways(purify: PureGen, images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """List the ways to purify the same images; each gives all of them, in order."""

    def in_batches(size: int, threads: int) -> Tensor:
        torch.set_num_threads(threads)
        return torch.cat([purify(part) for part in images.split(size)])

    def shuffled() -> Tensor:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return purify(images[order])[order.argsort()]

    def mapped(**options: Any) -> Tensor:
        rows = as_rows(images)
        return from_rows(rows.map(purify, batched=True, batch_size=20, load_from_cache_file=False, **options))

    def loaded() -> Tensor:
        loader = DataLoader(TensorDataset(images), batch_size=5, num_workers=2, collate_fn=PurifyingCollate(purify))
        return torch.cat(list(loader))

    return {
        "one by one, 2 threads": lambda: in_batches(1, 2),
        "one by one, 1 thread": lambda: in_batches(1, 1),
        "batches of 7, 2 threads": lambda: in_batches(7, 2),
        "batches of 7, 1 thread": lambda: in_batches(7, 1),
        "one batch, 1 thread": lambda: in_batches(len(images), 1),
        "shuffled": shuffled,
        "datasets.map": mapped,
        "datasets.map, 2 processes": lambda: mapped(num_proc=2),
        "DataLoader, 2 workers": loaded,
    }


class PurifyingCollate:
    """Purify a batch in the worker that collates it."""

    def __init__(self, purify: PureGen) -> None:
        self.purify = purify

    def __call__(self, samples: list[tuple[Tensor]]) -> Tensor:
        """Stack and purify."""
        return self.purify(torch.stack([image for (image,) in samples]))


def compare_ways(method: str, dtype: str, calls: int, images: Tensor, device: str) -> dict[str, Any]:
    """Purify in every way; how many images differ from those of one call."""
    threads = torch.get_num_threads()
    purify = transform(method, dtype, calls, images, device)
    torch.set_num_threads(2)
    started = time.perf_counter()
    reference = purify(images)
    found: dict[str, Any] = {"seconds_of_one_call": time.perf_counter() - started, "images_that_differ": {}}
    for name, way in ways(purify, images).items():
        torch.set_num_threads(2)
        found["images_that_differ"][name] = int((way() != reference).flatten(1).any(1).sum())
    torch.set_num_threads(threads)
    print(method, dtype, found, flush=True)
    return found


def purify_pairs(dtype: str, calls: int, count: int) -> dict[str, Tensor]:
    """Purify clean and poisoned images by the two networks, each on its own."""
    images = load_demo().images[:count]
    found = {}
    for method in ("ebm", "ddpm"):
        purify = transform(method, dtype, calls, images).purifier
        for name, batch in (("clean", images), ("poisoned", poisoned(images))):
            found[f"{method} {name}"] = purify(batch, sample_ids=torch.arange(len(batch)), seed=0)
    return found


def poisoned(images: Tensor) -> Tensor:
    """Add the demo trigger, doubled."""
    return add_trigger(images, 2 * load_demo().trigger)


def in_another_process(variables: dict[str, str], arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Run `purify_pairs` in float32 with other environment variables."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "purified.safetensors"
        command = [sys.executable, __file__, "--save", path, "--images", arguments.images, "--calls", arguments.calls]
        subprocess.run([str(part) for part in command], check=True, env={**os.environ, **variables})  # noqa: S603
        return load_file(path)


def apart(one: dict[str, Tensor], other: dict[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Compare what two arithmetics made of the same images."""
    found = {}
    for method in ("ebm", "ddpm"):
        clean, dirty = f"{method} clean", f"{method} poisoned"
        difference = (one[clean].int() - other[clean].int()).abs().float()
        found[method] = {
            "largest_difference_of_255": difference.max().item(),
            "mean_difference_of_255": difference.mean().item(),
            "equal_values": (difference == 0).float().mean().item(),
            "within_1_of_255": (difference <= 1).float().mean().item(),
            "psnr_clean": [psnr_of_set(part[clean], images) for part in (one, other)],
            "survival": [
                survival(images, poisoned(images), part[clean], part[dirty]).mean().item() for part in (one, other)
            ],
            "mean_color_of_255": [part[clean].float().mean((0, 2, 3)).tolist() for part in (one, other)],
        }
    return found


def markdown(own: Mapping[str, Any], avx2: Mapping[str, Any]) -> str:
    """Format both records as a table: of each method measured and arithmetic, the images that differ in any way."""
    columns = {
        "float32": (own, "float32"),
        "bfloat16": (own, "bfloat16"),
        "float32, AVX2 alone": (avx2, "float32"),
    }
    lines = [["method", *columns], ["---"] * (len(columns) + 1)]
    for method in METHODS:
        found = [record["ways"].get(f"{method}, {dtype}") for record, dtype in columns.values()]
        if not any(found):
            continue
        most = [None if one is None else max(one["images_that_differ"].values()) for one in found]
        lines.append([method, *("–" if count is None else str(count) for count in most)])
    names = next(iter(own["ways"].values()))["images_that_differ"]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"{table}\n\nOf {own['images']} images, those that differ from all in one call on 2 threads, in the worst of "
        f"{len(names)} ways: {'; '.join(names)}. Every method at its own steps, diffusion by {own['diffusion_calls']} "
        f"calls. `{own['command']}`, and with AVX2 alone `{avx2['command']}`; {own['machine']}.\n"
    )


def main() -> None:
    """Compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--calls", type=int, default=15, help="network calls of each diffusion, at most")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--dtypes", nargs="*", help="default: float32, and bfloat16 where the hardware has it")
    parser.add_argument("--device", default="cpu", help="of the first part")
    parser.add_argument("--save", type=Path, help="only purify in float32, and write the images to this file")
    parser.add_argument("--output", type=Path, default=RESULTS / "reproducibility.json")
    arguments = parser.parse_args()
    if arguments.save:
        save_file(purify_pairs("float32", arguments.calls, arguments.images), arguments.save)
        return
    images = load_demo().images[: arguments.images]
    dtypes = arguments.dtypes or ["float32", *(["bfloat16"] if has_bfloat16(CPU) else [])]
    others = {}
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        own = purify_pairs("float32", arguments.calls, arguments.images)
        others["float32 with AVX2 alone"] = in_another_process(AVX2, arguments)
    if others and has_bfloat16(CPU):
        others["bfloat16"] = purify_pairs("bfloat16", arguments.calls, arguments.images)
    record = {
        "benchmark": "reproducibility",
        "command": shlex.join(["python", "benchmarks/reproducibility.py", *sys.argv[1:]]),
        **describe_machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "images": len(images),
        "diffusion_calls": arguments.calls,
        "seed": 0,
        "apart": {name: apart(own, other, images) for name, other in others.items()},
        "ways": {
            f"{method}, {dtype}": compare_ways(method, dtype, arguments.calls, images, arguments.device)
            for dtype in dtypes
            for method in arguments.methods
        },
    }
    write_record(arguments.output, record)
    print(record["apart"])


if __name__ == "__main__":
    main()

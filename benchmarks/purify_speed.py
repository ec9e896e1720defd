"""How fast images are purified, beside the loop as it is published, and how near to what the hardware can do.

    uv run python benchmarks/purify_speed.py

Contract: one run on one machine. For each width of the energy network and for the packaged noise predictor, the plain
float32 loop (`references.py`: eager, default layout, autograd; for DDPM diffusers' own network) and a `Purifier`, as in
use (batches on one thread each, no image's result depending on its batch), take the same steps, from the same images,
with the same weights and the same noise (drawn beforehand for the reference; drawn on the way for ours). Reported:
milliseconds a step and an image, images a second over the paper's steps (150 and 75), the median of `--repeats` timings
after a warm-up and their spread; "batch" is the number of images handed over at once;
arithmetic done a second, and its share of the rate of a large matrix product measured in the same run in the same
dtype. The arithmetic counted is that of the folded network: multiply-adds of all convolutions, forward and input
gradient, two operations each. "compiled" is `torch.compile`, with what it took to compile: of diffusers' network in
bfloat16 and channels-last, its weights frozen, which is what one would do without this package; and of our energy.

Then a set of images from end to end (`nf` 128, 150 steps; the first call's start not counted).

Then both whole chains by both paths on the demonstration images, clean and poisoned: how far the images are apart, and
whether any figure of merit is. Last, in fresh interpreters, what importing and constructing `PureGen` takes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from purify_agreement import PAPER, PAPER_STEPS, agreement, dtypes_on, name_of, weights_of
from references import reference_chain, reference_energy, reference_restore
from torch import Tensor

from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.plots import draw_speed
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.diffusion import alpha_bars_of, beta_schedule
from puregen_transforms.functional.images import to_signed
from puregen_transforms.functional.langevin import langevin
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM, InvariantEBM
from puregen_transforms.models.unet_inference import InvariantUNet
from puregen_transforms.purifier.config import DiffusionConfig
from puregen_transforms.purifier.device import choose_device, choose_dtype
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.stages import DiffusionStage, LangevinStage

RESULTS = Path(__file__).parent / "results"
SIDE = 32
TIMED_STEPS = {"ebm": 10, "ddpm": 8}


def timed(function: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""

    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return [once() for _ in range(repeats)]


def matrix_product_rate(dtype: torch.dtype, device: torch.device, repeats: int) -> float:
    """Operations a second of a large square matrix product: the best of several."""
    size = 8192 if device.type == "cuda" else 4096
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device, repeats))


def operations_of_ebm(nf: int, side: int = SIDE) -> int:
    """Count operations of an image and a step: two for each multiply-add of the folded convolutions, both ways."""
    full, half, quarter = side**2, side**2 // 4, side**2 // 16
    multiply_adds = full * 27 * nf + half * (16 * nf**2 + 3 * nf)  # block1
    multiply_adds += half * 9 * nf**2 + quarter * (16 * nf**2 + nf**2)  # block2
    multiply_adds += 4 * quarter * 9 * nf**2  # block3, block4
    return 4 * multiply_adds


def operations_of_unet(model: torch.nn.Module) -> int:
    """Count operations of one image and one call: two for each multiply-add of convolutions and linear layers."""
    total = 0

    def count(layer: Any, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * layer.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE), 0)
    for hook in hooks:
        hook.remove()
    return total


class Table:
    """Rows of the record, printed as they come."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.rows: list[dict[str, Any]] = []

    def add(
        self, run: Callable[[], Any], *, kind: str, images: int, operations: int, ceiling: float, **about: Any
    ) -> None:
        """Time `TIMED_STEPS` steps of a chain."""
        steps = TIMED_STEPS[kind]
        seconds = [value / steps / images for value in timed(run, self.device, self.repeats)]
        median = statistics.median(seconds)
        row = {
            "kind": kind,
            **about,
            "batch": images,
            "operations": operations,
            "milliseconds_a_step_and_image": median * 1e3,
            "spread": [min(seconds) * 1e3, max(seconds) * 1e3],
            "images_per_second": 1 / median / PAPER_STEPS[kind],
            "operations_per_second": operations / median,
            "share_of_ceiling": operations / median / ceiling,
        }
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def time_ebm(table: Table, nf: int, batches: list[int], threads: list[int], ceilings: dict[str, float]) -> None:
    """Time the reference at one batch size, and ours at all of them."""
    torch.manual_seed(0)
    model, device, steps = EBM(EBMConfig(nf=nf)), table.device, TIMED_STEPS["ebm"]
    weights, own = weights_of(model, device), choose_dtype("auto", device)
    demo = load_demo().images.to(device)
    images = to_signed(demo)
    about = {"kind": "ebm", "nf": nf, "operations": operations_of_ebm(nf)}
    count = min(64, max(batches))
    noise = [torch.randn(count, 3, SIDE, SIDE, device=device) for _ in range(steps)]

    def reference() -> Tensor:
        return reference_chain(
            lambda x: reference_energy(weights, x),
            images[:count],
            noise,
            epsilon=PAPER.step_size,
            temperature=1.0,  # of random weights: the chain stays among images
        )

    table.add(reference, path="reference", dtype="float32", images=count, ceiling=ceilings["float32"], **about)
    config = replace(PAPER, steps=steps, temperature=1.0)
    for dtype in dtypes_on(device):
        energy, name = InvariantEBM(model, dtype=dtype, device=device), name_of(dtype)
        purify = Purifier([LangevinStage(energy, config, trained_size=SIDE)], device=device)
        for size in sorted({*batches, count}):
            x = demo[torch.arange(size) % len(demo)]
            for number in threads if dtype == own and size == count else threads[-1:]:
                torch.set_num_threads(number)
                table.add(
                    lambda x=x, purify=purify: purify(x, sample_ids=torch.arange(len(x)), seed=0),  # type: ignore[misc]
                    path="ours",
                    dtype=name,
                    images=size,
                    threads=number,
                    default=size == count,
                    ceiling=ceilings[f"{name}, {number} threads"],
                    **about,
                )
    fast = FrozenEBM(model, dtype=own, device=device)
    fast.with_gradient = torch.compile(fast.with_gradient)  # type: ignore[method-assign]
    x = images[:count]

    def compiled() -> Tensor:
        drawn = KeyedNoise(0, torch.arange(len(x), device=device))
        return langevin(x, fast, steps=steps, step_size=PAPER.step_size, temperature=1.0, noise=drawn)

    seconds = timed_once(compiled)
    table.add(
        compiled,
        path="ours, compiled",
        dtype=name_of(own),
        images=count,
        ceiling=ceilings[name_of(own)],
        compile_seconds=seconds,
        **about,
    )


def timed_once(function: Callable[[], Any]) -> float:
    """Seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def time_ddpm(table: Table, batches: list[int], ceilings: dict[str, float]) -> None:
    """Time the packaged noise predictor: diffusers' network in float32, and ours."""
    device, steps = table.device, TIMED_STEPS["ddpm"]
    model, own = load_unet(resolve_ddpm()), choose_dtype("auto", device)
    about = {"kind": "ddpm", "operations": operations_of_unet(model)}
    model = model.to(device)
    demo = load_demo().images.to(device)
    images = to_signed(demo)
    count, betas = min(64, max(batches)), beta_schedule()
    noise = [torch.randn(count, 3, SIDE, SIDE, device=device) for _ in range(steps)]

    @torch.no_grad()
    def reference(network: Any = model, dtype: torch.dtype = torch.float32) -> Tensor:
        return reference_restore(
            lambda x, t: network(x.to(dtype), t).sample.float(), images[:count], noise, betas=betas
        )

    table.add(reference, path="reference", dtype="float32", images=count, ceiling=ceilings["float32"], **about)
    config = DiffusionConfig(steps=steps)
    for dtype in dtypes_on(device):
        predict, name = InvariantUNet(model, dtype=dtype), name_of(dtype)
        stage = DiffusionStage(predict, config, alpha_bars_of(betas), predict.side_multiple)
        purify = Purifier([stage], device=device)
        for size in sorted({*batches, count}):
            x = demo[torch.arange(size) % len(demo)]
            table.add(
                lambda x=x, purify=purify: purify(x, sample_ids=torch.arange(len(x)), seed=0),  # type: ignore[misc]
                path="ours",
                dtype=name,
                images=size,
                default=size == count,
                ceiling=ceilings[name],
                **about,
            )
    plain = copy.deepcopy(model).to(own).to(memory_format=torch.channels_last)
    with torch._inductor.config.patch(freezing=True):
        compiled = torch.compile(plain)
        seconds = timed_once(lambda: reference(compiled, own))
        table.add(
            lambda: reference(compiled, own),
            path="diffusers, compiled",
            dtype=name_of(own),
            images=count,
            ceiling=ceilings[name_of(own)],
            compile_seconds=seconds,
            **about,
        )


def whole_set(device: torch.device, count: int) -> dict[str, Any]:
    """So many 8-bit images through the paper's network and chain: `nf` 128, 150 steps."""
    torch.manual_seed(0)
    dtype = choose_dtype("auto", device)
    energy = InvariantEBM(EBM(EBMConfig(nf=128)), dtype=dtype, device=device)
    purify = Purifier([LangevinStage(energy, replace(PAPER, temperature=1.0), trained_size=SIDE)], device=device)
    images = load_demo().images
    images, ids = images[torch.arange(count) % len(images)], torch.arange(count)
    purify(images[: min(count, 64)], sample_ids=ids[: min(count, 64)], seed=0)
    seconds = timed_once(lambda: purify(images, sample_ids=ids, seed=0))
    done = operations_of_ebm(128) * PAPER.steps * count
    result = {"images": count, "nf": 128, "steps": PAPER.steps, "seconds": seconds}
    return {**result, "images_per_second": count / seconds, "operations_per_second": done / seconds}


STARTING = """
import time
import torch
from torchvision.transforms import v2
start = time.perf_counter()
from puregen_transforms import PureGen
imported = time.perf_counter()
PureGen()
print(imported - start, time.perf_counter() - imported)
"""


def starting(repeats: int) -> dict[str, float]:
    """Seconds to import `PureGen` beyond torch and torchvision, and to construct one: medians of fresh interpreters."""
    command = [sys.executable, "-c", STARTING]
    runs = [subprocess.run(command, capture_output=True, check=True).stdout for _ in range(repeats)]  # noqa: S603
    times = [[float(value) for value in output.split()] for output in runs]
    imported, constructed = (statistics.median(values) for values in zip(*times, strict=True))
    return {"import_seconds": imported, "construct_seconds": constructed}


def markdown(record: dict[str, Any]) -> str:
    """Format a table of the reference, of ours at the reference's batch size, and of what is compiled."""
    lines = [
        "| | arithmetic | batch | ms a step and image | images a second | times the reference | share of ceiling |",
        "|---|---|---|---|---|---|---|",
    ]
    references = {row_name(row): row for row in record["rows"] if row["path"] == "reference"}
    for row in record["rows"]:
        if row["path"] == "ours" and not row["default"]:
            continue
        faster = references[row_name(row)]["milliseconds_a_step_and_image"] / row["milliseconds_a_step_and_image"]
        about = row["path"] + (f", {row['threads']} thread(s)" if row.get("threads") else "")
        about += f" in {row['compile_seconds']:.0f} s" if "compile_seconds" in row else ""
        lines.append(
            f"| {row_name(row)}, {about} | {row['dtype']} | {row['batch']} "
            f"| {row['milliseconds_a_step_and_image']:.3f} | {row['images_per_second']:.2f} | {faster:.1f} "
            f"| {100 * row['share_of_ceiling']:.0f} % |"
        )
    whole = record["whole_set"]
    lines += ["", f"{whole['images']} images of 32x32, `nf` 128, 150 steps, end to end: {whole['seconds']:.1f} s."]
    return "\n".join(lines) + "\n"


def row_name(row: dict[str, Any]) -> str:
    """Name a row by its network."""
    return f"EBM {row['nf']}" if row["kind"] == "ebm" else "DDPM"


def main() -> None:
    """Time, compare, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 32, 64, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compared", type=int, default=100, help="images purified by both paths")
    parser.add_argument("--whole", type=int, default=256, help="images of a set purified from end to end")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--output", type=Path, default=RESULTS / "purify_speed.json")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    most = torch.get_num_threads()
    threads = sorted({1, most}) if device.type == "cpu" else [most]
    ceilings: dict[str, float] = {}
    for dtype in dtypes_on(device):
        name = name_of(dtype)
        for number in threads:
            torch.set_num_threads(number)
            ceilings[f"{name}, {number} threads"] = ceilings[name] = matrix_product_rate(
                dtype, device, arguments.repeats
            )
    torch._inductor.config.force_disable_caches = True  # of earlier runs: compiling is timed
    table = Table(device, arguments.repeats)
    for nf in arguments.widths:
        time_ebm(table, nf, arguments.batches, threads, ceilings)
    torch.set_num_threads(most)
    time_ddpm(table, arguments.batches, ceilings)
    record = {
        "benchmark": "purify_speed",
        "command": f"python benchmarks/purify_speed.py --repeats {arguments.repeats}",
        **describe_machine(),
        "matrix_product_operations_per_second": ceilings,
        "rows": table.rows,
        "agreement": agreement(device, arguments.compared),
        "whole_set": whole_set(device, arguments.whole),
        "starting": starting(arguments.repeats),
    }
    write_record(arguments.output, record)
    arguments.output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))
    draw_speed(arguments.output.with_suffix(".png"), record)


if __name__ == "__main__":
    main()

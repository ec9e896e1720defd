"""How fast images are purified, beside the loop as it is published, and how near to what the hardware can do.

    uv run python benchmarks/purify_speed.py

Contract: one run on one machine. For each width of the energy network and for the packaged noise predictor, the plain
float32 loop (`references.py`: eager, default layout, autograd; for DDPM diffusers' own network) and `langevin` or
`restore` with the inference form take the same steps, from the same images, with the same weights and the same noise
(drawn beforehand for the reference; drawn on the way, as in use, for ours). Reported: milliseconds a step and an image,
images a second over the paper's steps (150 and 75), the median of `--repeats` timings after a warm-up and their spread;
arithmetic done a second, and its share of the rate of a large matrix product measured in the same run in the same
dtype. The arithmetic counted is that of the folded network: multiply-adds of all convolutions, forward and input
gradient, two operations each.

Then the whole chain once: how far the fast path's images are from the reference's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from references import reference_chain, reference_energy, reference_restore
from torch import Tensor

from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.plots import draw_speed
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.functional.diffusion import alpha_bars_of, beta_schedule, restore
from puregen_transforms.functional.images import to_signed, to_uint8
from puregen_transforms.functional.langevin import langevin
from puregen_transforms.functional.noise import KeyedNoise
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.load import load_ebm, resolve_checkpoint
from puregen_transforms.models.ebm import EBM, EBMConfig
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.unet_inference import FrozenUNet
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.device import choose_device, choose_dtype
from puregen_transforms.purifier.pipeline import default_batch_size

RESULTS = Path(__file__).parent / "results"
SIDE = 32
TIMED_STEPS = {"ebm": 10, "ddpm": 4}
PAPER_STEPS = {"ebm": 150, "ddpm": 75}
PAPER = LangevinConfig()


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
    """Of one image and one step: two for each multiply-add of the folded convolutions, forward and backward."""
    full, half, quarter = side**2, side**2 // 4, side**2 // 16
    multiply_adds = full * 27 * nf + half * (16 * nf**2 + 3 * nf)  # block1
    multiply_adds += half * 9 * nf**2 + quarter * (16 * nf**2 + nf**2)  # block2
    multiply_adds += 4 * quarter * 9 * nf**2  # block3, block4
    return 4 * multiply_adds


def operations_of_unet(model: torch.nn.Module) -> int:
    """Of one image and one call: two for each multiply-add of convolutions and linear layers."""
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


def weights_of(model: torch.nn.Module, device: torch.device) -> dict[str, Tensor]:
    """A state dict on a device."""
    return {name: value.detach().to(device) for name, value in model.state_dict().items()}


def time_ebm(table: Table, nf: int, batches: list[int], threads: list[int], ceilings: dict[str, float]) -> None:
    """The reference at one batch size; ours at all of them."""
    torch.manual_seed(0)
    model, device, steps = EBM(EBMConfig(nf=nf)), table.device, TIMED_STEPS["ebm"]
    weights, own = weights_of(model, device), choose_dtype("auto", device)
    images = to_signed(load_demo().images).to(device)
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
    for dtype in dict.fromkeys((torch.float32, own)):
        energy, name = FrozenEBM(model, dtype=dtype, device=device), str(dtype).removeprefix("torch.")
        for size in batches:
            x = images[torch.arange(size) % len(images)]

            def run(x: Tensor = x, energy: FrozenEBM = energy) -> Tensor:
                drawn = KeyedNoise(0, torch.arange(len(x), device=device))
                return langevin(x, energy, steps=steps, step_size=PAPER.step_size, temperature=1.0, noise=drawn)

            for number in threads if dtype == own else threads[-1:]:
                torch.set_num_threads(number)
                ceiling = ceilings[f"{name}, {number} threads"]
                table.add(run, path="ours", dtype=name, images=size, threads=number, ceiling=ceiling, **about)


def time_ddpm(table: Table, batches: list[int], ceilings: dict[str, float]) -> None:
    """The packaged noise predictor: diffusers' network in float32, and ours."""
    device, steps = table.device, TIMED_STEPS["ddpm"]
    model, own = load_unet(resolve_ddpm()), choose_dtype("auto", device)
    about = {"kind": "ddpm", "operations": operations_of_unet(model)}
    model = model.to(device)
    images = to_signed(load_demo().images).to(device)
    count, betas = min(64, max(batches)), beta_schedule()
    noise = [torch.randn(count, 3, SIDE, SIDE, device=device) for _ in range(steps)]

    @torch.no_grad()
    def reference() -> Tensor:
        return reference_restore(lambda x, t: model(x, t).sample, images[:count], noise, betas=betas)

    table.add(reference, path="reference", dtype="float32", images=count, ceiling=ceilings["float32"], **about)
    for dtype in dict.fromkeys((torch.float32, own)):
        predict, name = FrozenUNet(model, dtype=dtype), str(dtype).removeprefix("torch.")
        for size in batches:
            x = images[torch.arange(size) % len(images)]

            def run(x: Tensor = x, predict: FrozenUNet = predict) -> Tensor:
                drawn = KeyedNoise(0, torch.arange(len(x), device=device))
                return restore(x, predict, steps=steps, alpha_bars=alpha_bars_of(betas), noise=drawn)

            table.add(run, path="ours", dtype=name, images=size, ceiling=ceilings[name], **about)


def agreement(device: torch.device, count: int) -> dict[str, Any]:
    """The whole published chain by both paths, packaged weights, same noise: differences of the 8-bit images."""
    model, images = load_ebm(resolve_checkpoint(None)), to_signed(load_demo().images[:count]).to(device)
    weights, steps = weights_of(model, device), PAPER.steps
    drawn = KeyedNoise(0, torch.arange(count, device=device))
    expected = reference_chain(
        lambda x: reference_energy(weights, x),
        images,
        [drawn(step, images) for step in range(steps)],
        epsilon=PAPER.step_size,
        temperature=PAPER.temperature,
    )
    result: dict[str, Any] = {"images": count, "steps": steps}
    for dtype in dict.fromkeys((torch.float32, choose_dtype("auto", device))):
        energy = FrozenEBM(model, dtype=dtype, device=device)
        found = langevin(
            images, energy, steps=steps, step_size=PAPER.step_size, temperature=PAPER.temperature, noise=drawn
        )
        apart = (to_uint8(found).int() - to_uint8(expected).int()).abs().float()
        result[str(dtype).removeprefix("torch.")] = {
            "mean_difference_of_255": apart.mean().item(),
            "largest_difference_of_255": apart.max().item(),
        }
    return result


def main() -> None:
    """Time, compare, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 32, 64, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compared", type=int, default=64, help="images purified by both paths")
    parser.add_argument("--device", help="default: a GPU if there is one")
    parser.add_argument("--output", type=Path, default=RESULTS / "purify_speed.json")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    most = torch.get_num_threads()
    threads = sorted({1, most}) if device.type == "cpu" else [most]
    ceilings: dict[str, float] = {}
    for dtype in dict.fromkeys((torch.float32, choose_dtype("auto", device))):
        name = str(dtype).removeprefix("torch.")
        for number in threads:
            torch.set_num_threads(number)
            ceilings[f"{name}, {number} threads"] = ceilings[name] = matrix_product_rate(
                dtype, device, arguments.repeats
            )
    table = Table(device, arguments.repeats)
    for nf in arguments.widths:
        time_ebm(table, nf, arguments.batches, threads, ceilings)
    torch.set_num_threads(most)
    time_ddpm(table, arguments.batches, ceilings)
    record = {
        "benchmark": "purify_speed",
        "command": f"python benchmarks/purify_speed.py --repeats {arguments.repeats}",
        **describe_machine(),
        "default_batch": default_batch_size(SIDE**2, device),
        "matrix_product_operations_per_second": ceilings,
        "rows": table.rows,
        "agreement": agreement(device, arguments.compared),
    }
    write_record(arguments.output, record)
    print(json.dumps(record["agreement"]))
    draw_speed(arguments.output.with_suffix(".png"), record)


if __name__ == "__main__":
    main()

"""Where the time of a step goes, and what was tried against it.

    uv run python benchmarks/purify_profile.py

Contract: the inference forms as they are used, at their default batch size. For the widest energy network (`nf` 128)
and the packaged noise predictor: microseconds a call and image of each torch operation, from torch's profiler, beside
the whole call without it. Then alternatives, each beside what is kept, alternating, medians of `--repeats` rounds:

- streams: as many Python threads as cores, each with a batch and one thread of its own, instead of all threads in
  every operation;
- allocator: the C library left as it is, instead of `keep_freed_memory`, in processes of their own; with the
  page faults of a call. What earlier calls of a process freed counts, too: an EBM alone in its process fares worse.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from purify_speed import RESULTS, SIDE, timed_once
from torch import Tensor
from torch.profiler import profile

from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.models import ebm_inference, unet_inference
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.models.unet_inference import FrozenUNet
from puregen_transforms.purifier.batches import default_batch_size
from puregen_transforms.purifier.device import choose_dtype

CPU = torch.device("cpu")


def networks() -> dict[str, tuple[Callable[[Tensor], Any], int]]:
    """Make a call of each network, and give the default batch size."""
    dtype = choose_dtype("auto", CPU)
    torch.manual_seed(0)
    found: dict[str, tuple[Callable[[Tensor], Any], int]] = {}
    for nf in (32, 64, 128):
        energy = FrozenEBM(EBM(EBMConfig(nf=nf)), dtype=dtype)
        found[f"EBM {nf}"] = energy.with_gradient, default_batch_size(energy.bytes_per_pixel * SIDE**2, CPU)
    predictor = FrozenUNet(load_unet(resolve_ddpm()), dtype=dtype)
    found["DDPM"] = (lambda x: predictor(x, 50)), default_batch_size(predictor.bytes_per_pixel * SIDE**2, CPU)
    return found


def seconds_of(run: Callable[[], Any], repeats: int) -> float:
    """Median, after two calls that are not counted."""
    run()
    run()
    return statistics.median(timed_once(run) for _ in range(repeats))


def operations(call: Callable[[Tensor], Any], images: Tensor, repeats: int) -> dict[str, float]:
    """Microseconds a call and image of each operation, the longest first; and of the whole call."""
    whole = seconds_of(lambda: call(images), repeats)
    with profile() as measured:
        for _ in range(repeats):
            call(images)
    events = sorted(measured.key_averages(), key=lambda event: -event.self_cpu_time_total)
    per_image = repeats * len(images)
    shares = {event.key: round(event.self_cpu_time_total / per_image, 2) for event in events[:8]}
    return {"whole call": round(whole / len(images) * 1e6, 1), **shares}


def streams(call: Callable[[Tensor], Any], size: int, repeats: int) -> dict[str, float]:
    """Microseconds a call and image: all threads in every operation, and a batch for each thread."""
    threads = torch.get_num_threads()
    batches = [torch.rand(size, 3, SIDE, SIDE) * 2 - 1 for _ in range(2 * threads)]
    rounds: dict[str, list[float]] = {"kept": [], "streams": []}
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for index in range(repeats + 1):
            kept = timed_once(lambda: [call(batch) for batch in batches])
            apart = timed_once(lambda: list(pool.map(call, batches)))
            if index:
                rounds["kept"].append(kept)
                rounds["streams"].append(apart)
    torch.set_num_threads(threads)
    return {name: statistics.median(values) / len(batches) / size * 1e6 for name, values in rounds.items()}


def allocator(repeats: int) -> dict[str, dict[str, float]]:
    """Measure microseconds and page faults of a call in this process, per image and per call."""
    result = {}
    for name, (call, size) in networks().items():
        images = torch.rand(size, 3, SIDE, SIDE) * 2 - 1
        seconds = seconds_of(lambda call=call, images=images: call(images), repeats)  # type: ignore[misc]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(repeats):
            call(images)
        faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / repeats
        result[name] = {"microseconds": seconds / size * 1e6, "page_faults": faults}
    return result


def apart(allocating: str, repeats: int) -> dict[str, dict[str, float]]:
    """Run `allocator` in a fresh process."""
    command = [sys.executable, __file__, "--repeats", str(repeats), "--allocator", allocating]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return json.loads(done.stdout)


def markdown(record: dict[str, Any]) -> str:
    """Both tables."""
    lines = []
    for name, shares in record["operations"].items():
        lines += [f"{name}, microseconds a call and image: " + ", ".join(f"{k} {v:g}" for k, v in shares.items()), ""]
    lines += [
        "| microseconds a call and image | kept | a batch for each thread | default allocator | its page faults |"
    ]
    lines += ["|---|---|---|---|---|"]
    for name, row in record["streams"].items():
        plain = record["allocator"]["default"][name]
        lines.append(
            f"| {name} | {row['kept']:.0f} | {row['streams']:.0f} | {plain['microseconds']:.0f} "
            f"(kept: {record['allocator']['kept'][name]['microseconds']:.0f}) | {plain['page_faults']:.0f} a call "
            f"(kept: {record['allocator']['kept'][name]['page_faults']:.0f}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Profile, compare, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS / "purify_profile.json")
    parser.add_argument("--allocator", choices=["kept", "default"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.allocator:
        if arguments.allocator == "default":
            for module in (ebm_inference, unet_inference):
                module.keep_freed_memory = lambda: None  # type: ignore[attr-defined]
        print(json.dumps(allocator(arguments.repeats)))
        return
    allocators = {name: apart(name, arguments.repeats) for name in ("default", "kept")}
    record: dict[str, Any] = {
        "benchmark": "purify_profile",
        "command": f"python benchmarks/purify_profile.py --repeats {arguments.repeats}",
        **describe_machine(),
        "operations": {},
        "streams": {},
        "allocator": allocators,
    }
    for name, (call, size) in networks().items():
        images = torch.rand(size, 3, SIDE, SIDE) * 2 - 1
        if name in ("EBM 128", "DDPM"):
            record["operations"][name] = operations(call, images, arguments.repeats)
        record["streams"][name] = streams(call, size, arguments.repeats)
    write_record(arguments.output, record)
    arguments.output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()

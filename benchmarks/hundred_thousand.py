"""A hundred thousand images: memory and time of `puregen detect --budget 2m`, its page, and the same by Ray.

    uv run python benchmarks/hundred_thousand.py CIFAR10_TRAIN IMAGENET32 [--images N ...] [--only SECTION ...]

Contract: one Parquet file of 32x32 images, half of them of the CIFAR-10 training set and half of 140 classes of Tiny
ImageNet at 32 pixels, at equal distances from their files and in an order drawn with seed 0; 1 % carry the picture of
`blended` at its published settings and the label of class 0; stored as PNG. CPU, packaged networks, seed 0.

- alone: `puregen detect --budget 2m` in one process: the most resident memory (pages of libraries and of mapped files
  included), seconds in all and of each search, poison found, other images called poisoned or doubtful.
- page: size and pictures of the report's page; seconds until headless Chromium has loaded it, where there are one and
  Playwright.
- ray: the same by `--engine ray --actors 2`, one of the actors killed by SIGKILL while it works; whether the page and
  the lines of all images have the same bytes, and the rest of the record but seconds. `alone` comes before it.

Several sizes tell how memory grows. Sections are measured alone and kept in the record, by size; the sets and reports
are kept in `--work`, so that a search that was killed goes on; its seconds are then those of the rest.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Image
from PIL import Image as PILImage
from whole_sets import PLAIN_RAY, peak_of

from puregen_transforms._extras import has_extra
from puregen_transforms.attacks import craft
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection.look_alikes import evenly
from puregen_transforms.evaluate.records import describe_machine, write_record

RESULT = Path(__file__).parent / "results/hundred_thousand.json"
SHARE = 0.01

KILLED_AFTER = 20.0
"""Seconds that the actor which is killed has worked."""


class Work:
    """A poisoned set of some size, and the reports of it.

    Args:
        sources: both sets, as Parquet.
        folder: where everything is kept.
        count: images.
    """

    def __init__(self, sources: tuple[str, str], folder: Path, count: int) -> None:
        self.folder, self.count = folder / str(count), count
        self.folder.mkdir(parents=True, exist_ok=True)
        self.source, self._rows = self.folder / "set.parquet", self.folder / "poisoned.npy"
        if not self._rows.exists():
            np.save(self._rows, write_set(sources, self.source, count))

    @property
    def poisoned(self) -> np.ndarray:
        """Mark the poisoned rows: (N,) bool."""
        return np.load(self._rows)

    def report(self, name: str) -> Path:
        """Name the folder of a report."""
        return self.folder / name


def write_set(sources: tuple[str, str], path: Path, count: int) -> np.ndarray:
    """Poison images of both sets and write them; the poisoned rows, (N,) bool."""
    first, second = (part_of(ImageSet.load(source), count // 2) for source in sources)
    names = (*first.class_names, *(f"imagenet {name}" for name in second.class_names))
    labels = torch.cat([first.labels, second.labels + len(first.class_names)])
    whole = ImageSet(torch.cat([first.images, second.images]), labels, names)
    poison = craft("blended", whole, rate=SHARE, seed=0, target_class=0)
    images, labels = poison.apply_to_tensors(whole.images, whole.labels)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    features = Features(image=Image(), label=ClassLabel(names=list(names)))
    with pq.ParquetWriter(path, features.arrow_schema) as writer:
        for rows in order.split(5000):
            cells = [{"bytes": png(images[row]), "path": None} for row in rows.tolist()]
            writer.write_table(pa.table({"image": cells, "label": labels[rows].tolist()}, features.arrow_schema))
    return torch.isin(order, poison.ids).numpy()


def part_of(whole: ImageSet, count: int) -> ImageSet:
    """Take images at equal distances."""
    return whole.subset(evenly(torch.arange(len(whole)), count))


def png(image: torch.Tensor) -> bytes:
    """Store an image without loss."""
    PILImage.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file := io.BytesIO(), "PNG", compress_level=1)
    return file.getvalue()


def command(work: Work, output: Path, *options: str) -> list[str]:
    """Make the command line of the search."""
    words = ["detect", str(work.source), "--budget", "2m", "--device", "cpu", "--output", str(output), "--yes"]
    return [sys.executable, "-m", "puregen_transforms", *words, *options]


def alone(work: Work) -> dict[str, Any]:
    """Search in one process."""
    started = time.monotonic()
    peak = peak_of(command(work, work.report("alone")), threads=torch.get_num_threads())
    seconds = time.monotonic() - started
    found = json.loads((work.report("alone") / "verdict.json").read_text())
    verdicts = pq.read_table(work.report("alone") / "images.parquet")["verdict"].to_pylist()
    called = np.array([verdict in ("poison", "doubtful") for verdict in verdicts])
    return {
        "peak_bytes": peak,
        "seconds": seconds,
        "seconds_by": {one["search"]: round(one["seconds"], 1) for one in found["made"]},
        "left_out": {one["search"]: one["why"] for one in found["left_out"]},
        "level": found["level"],
        "poisoned": int(work.poisoned.sum()),
        "found": int((called & work.poisoned).sum()),
        "false": int((called & ~work.poisoned).sum()),
    }


def page(work: Work) -> dict[str, Any]:
    """Weigh the page, and open it."""
    path = work.report("alone") / "report.html"
    return {
        "bytes": path.stat().st_size,
        "pictures": path.read_text().count("<img"),
        "seconds_to_open": seconds_to_open(path),
    }


def seconds_to_open(path: Path) -> float | None:
    """Time how long Chromium takes to load a page; None where there is no Chromium, or no Playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None or not has_extra("playwright"):
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page()
        started = time.monotonic()
        window.goto(path.resolve().as_uri(), wait_until="load")
        seconds = time.monotonic() - started
        browser.close()
    return seconds


def ray(work: Work) -> dict[str, Any]:
    """Search with two actors, kill one, and compare what comes out."""
    output, expected = work.report("ray"), work.report("alone")
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603
        command(work, output, "--engine", "ray", "--actors", "2"),
        env={**os.environ, **PLAIN_RAY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killed = 0
    while process.poll() is None:
        if not killed:
            killed = kill_a_working_actor(process.pid)
        time.sleep(0.5)
    if process.returncode:
        raise RuntimeError(f"Expected the search by Ray to end well, but its exit code is {process.returncode}.")
    names = ("report.html", "images.csv", "images.parquet")
    same = {name: (output / name).read_bytes() == (expected / name).read_bytes() for name in names}
    same["verdict.json, but seconds"] = without_seconds(output) == without_seconds(expected)
    return {"same_bytes": same, "actors": 2, "killed": killed, "seconds": time.monotonic() - started}


def kill_a_working_actor(driver: int) -> int:
    """Kill one actor that has worked for a while: 1 if there was one, else 0."""
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "Searcher.do" in " ".join(one.cmdline()) and one.cpu_times().user > KILLED_AFTER:
                    one.kill()
                    return 1
    return 0


def without_seconds(report: Path) -> list[str]:
    """Read the numbers of a report, without those that say how long it took."""
    return [line for line in (report / "verdict.json").read_text().splitlines() if '"seconds"' not in line]


SECTIONS: dict[str, Callable[[Work], dict[str, Any]]] = {"alone": alone, "page": page, "ray": ray}


def markdown(record: dict[str, Any]) -> str:
    """Write a line for each size."""
    lines = [
        "| images of 32 px | most memory | minutes | poison found | others called | page | by Ray, an actor killed |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, one in sorted(record["sizes"].items(), key=lambda item: int(item[0])):
        found = one["alone"]
        lines.append(
            f"| {int(count):,} | {found['peak_bytes'] / 1e9:.2f} GB | {found['seconds'] / 60:.0f} | "
            f"{found['found']:,} of {found['poisoned']:,} | {found['false']:,} | {_page(one.get('page'))} | "
            f"{_ray(one.get('ray'))} |"
        )
    about = f"`python benchmarks/hundred_thousand.py CIFAR10_TRAIN IMAGENET32`, seed 0; {record['machine']}."
    return "\n".join([*lines, "", about]) + "\n"


def _page(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    seconds = found["seconds_to_open"]
    opened = "" if seconds is None else f", open in {seconds:.1f} s"
    return f"{found['bytes'] / 1e3:.0f} kB, {found['pictures']} pictures{opened}"


def _ray(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    return "same bytes" if found["killed"] and all(found["same_bytes"].values()) else "**other bytes**"


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cifar10", help="CIFAR-10 training set (Parquet)")
    parser.add_argument("imagenet32", help="Tiny ImageNet at 32 pixels (Parquet)")
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--work", type=Path, default=Path("hundred-thousand"), help="folder for sets and reports")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "hundred_thousand", "sizes": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
    for count in arguments.images:
        work = Work((arguments.cifar10, arguments.imagenet32), arguments.work.resolve(), count)
        kept = record["sizes"].setdefault(str(count), {})
        for name in arguments.only:
            kept[name] = {**SECTIONS[name](work), **describe_machine()}
            print(count, name, json.dumps(kept[name]), flush=True)
            write_record(arguments.output, record | describe_machine())
    print(markdown(record | describe_machine()))


if __name__ == "__main__":
    main()

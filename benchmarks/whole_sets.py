"""Whole data sets: what purifying them costs beside the network, and what a kill, more processes or Ray change.

    uv run python benchmarks/whole_sets.py CIFAR10_TEST_PARQUET [--only SECTION ...]

Contract: one Parquet file of 10,000 images of 32x32 pixels, the packaged energy network, seed 0; float32, but for the
throughput, which is measured in the fastest arithmetic of the machine, where all else weighs most.

- throughput: the same 1,000 images, default method, on this machine's threads: `PureGen` on batches of 64 decoded
  images (the bare loop), against `purify_dataset` from Parquet to Parquet, in turns; images a second, median. Decoding
  and encoding these images alone, in one thread, is timed too: it overlaps with the network as far as cores are free.
- cache: 200 PIL images through `PureGen(cache=...)`, first and second time.
- processes: 1,000 images, 5 steps, one thread a process; bytes of the copy by 1, 2 and 3 processes, and how far two
  threads are from one.
- memory: peak resident memory of `puregen purify` with 1 step on 10,000 rows, and on ten times as many.
- streams: peak resident memory of `purify_dataset` on 10 WebDataset shards of 1,000 images, and on 100; method "jpeg",
  so that it is the way through, and no network, that is measured.
- kills: 10,000 images, 5 steps, two processes of one thread; SIGKILL to all at random moments, 50 times, and each time
  the same command again; bytes of the copy against a run that was left alone, and the parts that were done again.
- ray: 5,000 images, 5 steps, Ray with two actors against `purify_dataset`, image for image; then with the driver
  killed and started again.

Sections are measured alone and kept in the record; a section that is not named keeps its last figures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from PIL import Image

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.whole_sets.manifest import read_records
from puregen_transforms.whole_sets.verify import problems_of

PLAIN_RAY = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""Under `uv run` Ray would have every worker make an environment of its own first."""

RESULT = Path(__file__).parent / "results/whole_sets.json"


def throughput(source: Path, work: Path) -> dict[str, Any]:
    """Measure images a second of the bare loop, and of the whole job."""
    rows = Dataset.from_parquet(str(source), cache_dir=str(work)).select(range(1000))
    subset = work / "thousand.parquet"
    rows.to_parquet(subset)
    purifier = PureGen(seed=0, device="cpu")
    pictures = rows["image"][:]
    purifier(pictures[:64])
    bare, whole = [], []
    for turn in range(3):
        bare.append(timed(lambda: [purifier(pictures[first : first + 64]) for first in range(0, 1000, 64)]))
        destination = work / f"throughput-{turn}"
        whole.append(timed(lambda: purify_dataset(subset, purifier, output_dir=destination)))  # noqa: B023
    speeds = {
        "bare_loop": [1000 / seconds for seconds in bare],
        "purify_dataset": [1000 / seconds for seconds in whole],
    }

    def read_and_write() -> None:
        for cell in pq.read_table(subset)["image"].to_pylist():
            Image.open(BytesIO(cell["bytes"])).convert("RGB").save(BytesIO(), "PNG")

    more = statistics.median(whole) - statistics.median(bare)
    return {
        "images_per_second": speeds,
        "seconds_more": more,
        "share_more": more / statistics.median(bare),
        "seconds_of_decoding_and_encoding_alone": timed(read_and_write),
    }


def cache(source: Path, work: Path) -> dict[str, Any]:
    """Seconds of two epochs through the cache."""
    pictures = Dataset.from_parquet(str(source), cache_dir=str(work))[:200]["image"]
    purifier = PureGen(seed=0, device="cpu", dtype="float32", cache=work / "cache")
    purifier.warm_up()
    epochs = [timed(lambda: [purifier(picture) for picture in pictures]) for _ in range(2)]
    return {"images": 200, "seconds": epochs, "times_faster": epochs[0] / epochs[1]}


def processes(source: Path, work: Path) -> dict[str, Any]:
    """Test whether the number of processes changes the bytes, and that of threads the pixels."""
    subset = work / "thousand.parquet"
    pq.write_table(pq.read_table(source).slice(0, 1000), subset)
    digests = {}
    for count in (1, 2, 3):
        run(subset, work / f"by-{count}", "--steps", 5, "--part-rows", 100, processes=count)
        digests[count] = digest_of(work / f"by-{count}")
    run(subset, work / "two-threads", "--steps", 5, "--part-rows", 100, threads=2)
    one, two = (pixels_of(work / name) for name in ("by-1", "two-threads"))
    return {
        "same_bytes": len(set(digests.values())) == 1,
        "most_between_one_and_two_threads": int(np.abs(one.astype(int) - two).max()),
    }


def memory(source: Path, work: Path) -> dict[str, Any]:
    """Peak resident memory by the number of rows."""
    table = pq.read_table(source)
    many = work / "many.parquet"
    with pq.ParquetWriter(many, table.schema) as writer:
        for _ in range(10):
            writer.write_table(table, row_group_size=1000)
    peaks = {}
    for name, path in (("10000", source), ("100000", many)):
        started = time.monotonic()
        peaks[name] = {"bytes": run(path, work / f"memory-{name}", "--steps", 1), "seconds": time.monotonic() - started}
    return {"peak": peaks, "ratio": peaks["100000"]["bytes"] / peaks["10000"]["bytes"]}


STREAM = """
import sys
from datasets import load_dataset
from puregen_transforms import PureGen, purify_dataset
stream = load_dataset("webdataset", data_files=sys.argv[1] + "/*.tar", split="train", streaming=True)
purify_dataset(stream, PureGen("jpeg", seed=0), output_dir=sys.argv[2])
"""


def streams(source: Path, work: Path) -> dict[str, Any]:
    """Peak resident memory by the number of WebDataset shards."""
    cells = pq.read_table(source)["image"].to_pylist()
    peaks = {}
    for shards in (10, 100):
        folder = work / f"{shards}-shards"
        folder.mkdir()
        for shard in range(shards):
            write_shard(folder / f"{shard:03d}.tar", cells[1000 * (shard % 10) : 1000 * (shard % 10) + 1000])
        arguments = [sys.executable, "-c", STREAM, str(folder), str(work / f"out-{shards}")]
        peaks[str(1000 * shards)] = {"bytes": peak_of(arguments)}
    return {"peak": peaks, "ratio": peaks["100000"]["bytes"] / peaks["10000"]["bytes"]}


def write_shard(path: Path, cells: list[dict[str, Any]]) -> None:
    """Write images as numbered members of an archive."""
    with tarfile.open(path, "w") as archive:
        for row, cell in enumerate(cells):
            member = tarfile.TarInfo(f"{row:04d}.png")
            member.size = len(cell["bytes"])
            archive.addfile(member, BytesIO(cell["bytes"]))


def kills(source: Path, work: Path, count: int = 50) -> dict[str, Any]:
    """Kill a run of two processes at random moments, and compare what comes out in the end."""
    options = ("--steps", 5, "--part-rows", 100)
    started = time.monotonic()
    run(source, work / "whole", *options, processes=2)
    seconds = time.monotonic() - started
    destination, killed = work / "killed", 0
    parts, data = work / "killed.unfinished/parts", work / "killed.unfinished/result/data"
    written: dict[str, int] = {}
    finished = [0]
    while killed < count:
        process = start(source, destination, *options, processes=2)
        # From the first import to well into the work; the work itself is shared out among the kills.
        time.sleep(float(torch.rand(())) * (START_UP + 2 * seconds / count))
        if process.poll() is not None:
            break
        kill(process)
        killed += 1
        names = sorted(path.stem for path in parts.glob("*.json")) if parts.exists() else []
        written = {name: (data / f"{name}.parquet").stat().st_mtime_ns for name in names} | written
        finished.append(len(names))
        assert not destination.exists()
    run(source, destination, *options, processes=2)
    rows = [row for record in read_records(destination / "purified.jsonl") for row in range(record.start, record.stop)]
    return {
        "kills": killed,
        "same_bytes": digest_of(destination) == digest_of(work / "whole"),
        "each_row_once": rows == list(range(10_000)),
        "problems": list(problems_of(destination)),
        "parts_finished_after_each_kill": finished[1:],
        "finished_parts_done_again": sum(
            (destination / f"data/{name}.parquet").stat().st_mtime_ns != when for name, when in written.items()
        ),
        "left_beside": sorted(path.name for path in work.iterdir() if path.name.startswith("killed")),
        "seconds_left_alone": seconds,
    }


START_UP = 8.0
"""Seconds in which a killed run may not have begun yet."""


def ray(source: Path, work: Path) -> dict[str, Any]:
    """Ray against `purify_dataset`, and against itself when its driver is killed."""
    rows = Dataset.from_parquet(str(source), cache_dir=str(work)).select(range(5000))
    rows = rows.add_column("row", list(range(5000)))
    (work / "in").mkdir()
    for part in range(20):
        rows.shard(20, part, contiguous=True).to_parquet(work / f"in/{part:02d}.parquet")
    plain = work / "plain.parquet"
    rows.to_parquet(plain)
    run(plain, work / "accelerate", "--steps", 5)
    expected = pixels_of(work / "accelerate")
    options = ("--steps", 5, "--engine", "ray", "--id-column", "row", "--part-rows", 250)
    run(work / "in", work / "ray", *options)
    process = start(work / "in", work / "ray-killed", *options)
    files = work / "ray-killed.unfinished/result/data"
    while len(list(files.glob("*.parquet"))) < 5 and process.poll() is None:
        time.sleep(0.05)
    kill(process)
    kept = {path.name for path in files.glob("*.parquet")}
    run(work / "in", work / "ray-killed", *options)
    after = {path.name for path in (work / "ray-killed/data").glob("*.parquet")}
    return {
        "same_pixels": bool(np.array_equal(expected, pixels_of(work / "ray", sort="row"))),
        "same_pixels_after_kill": bool(np.array_equal(expected, pixels_of(work / "ray-killed", sort="row"))),
        "files_before_kill": len(kept),
        "files_kept": len(kept & after),
    }


SECTIONS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "throughput": throughput,
    "cache": cache,
    "processes": processes,
    "memory": memory,
    "streams": streams,
    "kills": kills,
    "ray": ray,
}


def timed(function: Callable[[], object]) -> float:
    """Seconds it takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def command(source: Path, destination: Path, *options: Any, processes: int = 1) -> list[str]:
    """Make the command line of `puregen purify`."""
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = many if processes > 1 else []
    options = (source, destination, "--device", "cpu", "--dtype", "float32", *options)
    return [sys.executable, *launcher, "-m", "puregen_transforms", "purify", *map(str, options)]


def start(source: Path, destination: Path, *options: Any, **settings: Any) -> subprocess.Popen[bytes]:
    """Begin `puregen purify`, with one thread a process."""
    return subprocess.Popen(  # noqa: S603
        command(source, destination, *options, **settings),
        env={**os.environ, **PLAIN_RAY, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run(source: Path, destination: Path, *options: Any, threads: int = 1, **settings: Any) -> int:
    """Run `puregen purify`; its peak resident memory in bytes."""
    return peak_of(command(source, destination, *options, **settings), threads=threads)


def peak_of(arguments: list[str], *, threads: int = 1) -> int:
    """Run a command; its peak resident memory in bytes."""
    process = subprocess.Popen(  # noqa: S603
        arguments,
        env={**os.environ, **PLAIN_RAY, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    problem = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(problem.decode()[-3000:])
    return usage.ru_maxrss * 1024


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all that it has started: a launcher's workers would live on."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def digest_of(folder: Path) -> str:
    """Hash all files of a copy."""
    found = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + sha256(path.read_bytes()).digest())
    return found.hexdigest()


def pixels_of(folder: Path, *, sort: str | None = None) -> np.ndarray:
    """Read the pixels, (N, H, W, 3) uint8, in the order of the rows or of a column."""
    rows = Dataset.from_parquet([str(path) for path in sorted((folder / "data").glob("*.parquet"))])
    rows = rows if sort is None else rows.sort(sort)
    return np.stack([np.asarray(picture) for picture in rows["image"]])


def markdown(record: dict[str, Any]) -> str:
    """Format a row for each section that was measured."""
    rows = {name: _WORDS[name](record[name]) for name in SECTIONS if name in record}
    lines = ["| | measured |", "|---|---|", *(f"| {name} | {words} |" for name, words in rows.items())]
    machines = sorted({section["machine"] for section in record.values()})
    return "\n".join([*lines, "", f"`python benchmarks/whole_sets.py CIFAR10_TEST`, seed 0; {'; '.join(machines)}."])


def _yes(value: bool) -> str:
    return "yes" if value else "**no**"


def _throughput(row: dict[str, Any]) -> str:
    bare, whole = (statistics.median(row["images_per_second"][name]) for name in ("bare_loop", "purify_dataset"))
    return (
        f"`purify_dataset` from Parquet to Parquet {whole:.1f} images a second, the bare loop {bare:.1f} "
        f"({row['share_more']:+.1%} time: {row['seconds_more']:+.2f} s for 1,000 images, whose decoding and encoding "
        f"alone takes {row['seconds_of_decoding_and_encoding_alone']:.2f} s)"
    )


def _memory(row: dict[str, Any]) -> str:
    small, large = (row["peak"][rows]["bytes"] / 2**20 for rows in ("10000", "100000"))
    return f"peak {small:.0f} MiB at 10,000 rows, {large:.0f} MiB at 100,000 ({row['ratio']:.2f} times)"


def _kills(row: dict[str, Any]) -> str:
    return (
        f"{row['kills']} SIGKILLs in a run of 10,000 images by two processes: same bytes {_yes(row['same_bytes'])}, "
        f"each row once {_yes(row['each_row_once'])}, "
        f"finished parts done again {row['finished_parts_done_again']}"
    )


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "throughput": _throughput,
    "cache": lambda row: f"second epoch through `cache=` {row['times_faster']:.0f} times faster than the first",
    "processes": lambda row: (
        f"1, 2 and 3 processes: same bytes {_yes(row['same_bytes'])}; one and two threads: at most "
        f"{row['most_between_one_and_two_threads']}/255 apart"
    ),
    "memory": _memory,
    "streams": _memory,
    "kills": _kills,
    "ray": lambda row: (
        f"5,000 images by Ray as by `purify_dataset`: {_yes(row['same_pixels'])}; with its driver killed and started "
        f"again: {_yes(row['same_pixels_after_kill'])}"
    ),
}


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as work:
            started = time.monotonic()
            measured = SECTIONS[name](arguments.source.resolve(), Path(work))
            record[name] = {**measured, **describe_machine(), "seconds_in_all": time.monotonic() - started}
            print(json.dumps({name: record[name]}, indent=1), flush=True)
        write_record(arguments.output, record)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

"""Most memory that the commands hold on 3,068 photographs at 224 pixels.

    uv run python benchmarks/photograph_memory.py CLOTHING_TRAIN CLOTHING_TEST PHOTOGRAPHS_OF_OTHERS

Contract: each command runs in a process of its own; its peak is what the system counts as resident (`ru_maxrss`): the
libraries, what is held, and what is looked at of files that are mapped. 2 GB is the aim. Photographs of others are the
attackers' (labelled); `evaluate` leaves out the row of `detect`, which is measured by itself.
Peaks are kept as soon as they are there: after a kill the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from puregen_transforms.evaluate.records import describe_machine, write_record

RESULTS = Path(__file__).parent / "results"
SIDE = "224"


def commands(train: str, test: str, public: str, folder: Path) -> dict[str, list[str]]:
    """List the commands by name, each writing into a folder of its own."""
    search = ["--size", SIDE, "--budget", "2m", "--yes"]
    return {
        "detect": ["detect", train, "--output", str(folder / "detect"), *search],
        "inspect": ["inspect", train, "--output", str(folder / "inspect"), "--sample", "8", *search],
        "clean": ["clean", train, str(folder / "clean"), *search],
        "evaluate": [
            *("evaluate", "photographs", train, test, "--public", public, "--size", SIDE),
            *("--output", str(folder / "evaluate"), "--defense", "none", "--defense", "PureGen-onestep"),
            *("--defense", "JPEG 50"),
        ],
    }


def peak_of(words: list[str]) -> dict[str, Any]:
    """Run a command, and tell its peak in MB, and its seconds."""
    started = time.time()
    command = [sys.executable, "-m", "puregen_transforms", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"puregen {words[0]} failed.")
    return {"peak_mb": round(used.ru_maxrss / 1024), "seconds": round(time.time() - started)}


def markdown(record: dict[str, Any]) -> str:
    """Write the table."""
    rows = [f"| `{name}` | {one['peak_mb']:,} MB | {one['seconds']:,} |" for name, one in record["commands"].items()]
    return "\n".join(["| command | most memory | seconds |", "|---|---|---|", *rows, "", record["machine"]]) + "\n"


def main() -> None:
    """Run what is missing, and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "public"):
        parser.add_argument(name)
    parser.add_argument("--only", nargs="+", default=["detect", "inspect", "clean", "evaluate"])
    parser.add_argument("--output", type=Path, default=RESULTS / "photograph_memory.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"benchmark": "photograph_memory", "commands": {}}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text(encoding="utf-8"))
    record |= describe_machine()
    with TemporaryDirectory() as folder:
        for name, words in commands(arguments.train, arguments.test, arguments.public, Path(folder)).items():
            if name in arguments.only and name not in record["commands"]:
                record["commands"][name] = peak_of(words)
                write_record(arguments.output, record)
    print(markdown(record))


if __name__ == "__main__":
    main()

"""What the benchmarks of attacks and defenses share: run a named grid of cells, and write its record and tables.

Every cell is kept in `--runs` by all that it depends on: attack, defense, weights, victim, seed and images. A killed
run goes on where it was; delete a cell's file there and it alone is computed again. The clean part of a set is
purified once for each method.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from puregen_transforms.evaluate.protocols import PROTOCOLS, SCALES
from puregen_transforms.evaluate.records import describe_machine, write_record
from puregen_transforms.evaluate.run import Bench, run_cells
from puregen_transforms.evaluate.sets import Sets, demo_sets, load_sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.evaluate.tables import markdown

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[2] / "shared/data"
SOURCES = {
    "train": ("cifar10-jpeg-train.parquet", "uoft-cs/cifar10"),
    "test": ("cifar10-jpeg-test.parquet", "uoft-cs/cifar10"),
    "public": ("tiny-imagenet-40-train.parquet", "zh-plus/tiny-imagenet"),
}
"""Of each part, a file beside the project, and the data set on the Hub to take where there is none."""


def sets_of(arguments: argparse.Namespace) -> Sets:
    """The images of a preset."""
    if arguments.preset == "smoke":
        return demo_sets()
    return load_sets(
        arguments.train,
        arguments.test,
        arguments.public,
        images_per_class=SCALES[arguments.preset].images_per_class,
        about=f"{Path(arguments.train).name} and {Path(arguments.test).name}; public: {Path(arguments.public).name}",
    )


def slim(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells as they are recorded: sample images of the first attack of each group alone."""
    seen, kept = set(), []
    for cell in cells:
        place = (cell["cell"]["defense"]["name"], cell["cell"]["attack"]["group"])
        if place in seen and "images_after" in cell:
            cell = {**cell, "images_after": {k: v for k, v in cell["images_after"].items() if k != "sample"}}
        seen.add(place)
        kept.append(cell)
    return kept


def main(name: str, description: str | None) -> None:
    """The command of a benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", choices=sorted(SCALES))
    for part, (file, hub) in SOURCES.items():
        default = str(DATA / file) if (DATA / file).exists() else hub
        parser.add_argument(
            f"--{part}", default=default, help=f"image set; default {hub}, or {file} beside the project"
        )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cores")
    parser.add_argument("--defenses", nargs="*", help="rows of the table; default all")
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    output = arguments.output or RESULTS / f"{name}{'' if arguments.preset == 'cpu' else '-' + arguments.preset}.json"
    protocol = PROTOCOLS[name](arguments.preset)
    say = partial(print, flush=True)
    bench = Bench(sets_of(arguments), Store(arguments.runs), arguments.device, say)
    started, found = time.time(), {}
    cells = protocol.cells
    if arguments.defenses is not None:
        check_names(arguments.defenses, [defense.name for defense in protocol.defenses])
        cells = [cell for cell in cells if cell.defense.name in arguments.defenses]
    for cell, record in run_cells(bench, cells, jobs=arguments.jobs):
        found[cells.index(cell)] = record
        say(f"{len(found)}/{len(cells)} in {time.time() - started:.0f} s: {in_words(record)}")
    record = {
        "name": name,
        "title": protocol.title,
        "command": f"python benchmarks/{name}.py --preset {arguments.preset}",
        "preset": arguments.preset,
        **describe_machine(),
        "images": bench.sets.about,
        "cells": slim([found[index] for index in range(len(cells))]),
    }
    write_record(output, record)
    output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    say(markdown(record))


def check_names(given: Sequence[str], known: Sequence[str]) -> None:
    """Exit with an error for a defense that the protocol does not have."""
    if unknown := [name for name in given if name not in known]:
        raise SystemExit(f"Expected defenses out of {', '.join(map(repr, known))}, but got {unknown[0]!r}.")


def in_words(record: Mapping[str, Any]) -> str:
    """One line for a cell."""
    cell = record["cell"]
    success = f", success {record['success']:.1%}" if "success" in record else ""
    target = cell["attack"]["settings"].get("target_class", "")
    return (
        f"{cell['attack']['name']} {cell['attack']['group']} {target} | {cell['defense']['name']} | "
        f"accuracy {record['accuracy']:.1%}{success} | {record['seconds']['all']:.0f} s"
    )

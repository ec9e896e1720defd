"""What the benchmarks of attacks and defenses share: run a named grid of cells, and write its record and tables.

Every cell is kept in `--runs` by all that it depends on: attack, defense, weights, victim, seed and images. A killed
run goes on where it was; delete a cell's file there and it alone is computed again. Where the folder is lost, or on
another machine, `--resume RECORD` takes the cells that a record has. The clean part of a set is purified once for each
method.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.benchmark import run_benchmark
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import find_protocol
from puregen_transforms.evaluate.records import write_record
from puregen_transforms.evaluate.report import draw_figures
from puregen_transforms.evaluate.sets import demo_sets, load_sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.evaluate.tables import markdown

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[2] / "shared/data"
SOURCES = {
    "train": ("cifar10-jpeg-train.parquet", "uoft-cs/cifar10"),
    "test": ("cifar10-jpeg-test.parquet", "uoft-cs/cifar10"),
    "public": ("tiny-imagenet-40-train.parquet", "zh-plus/tiny-imagenet"),
    "natural": ("imagenet32-140-train.parquet", "zh-plus/tiny-imagenet"),
}
"""Of each part, a file beside the project, and the data set on the Hub to take where there is none."""


def main(
    name: str, description: str | None, *, sources: Mapping[str, tuple[str, str]] = SOURCES, size: int | None = None
) -> None:
    """Run the command of a benchmark.

    Args:
        name: of the protocol.
        description: for `--help`.
        sources: the images, as `SOURCES`.
        size: to which images are resized; None takes them as they are.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", choices=sorted(SCALES))
    for part, (file, hub) in sources.items():
        default = str(DATA / file) if (DATA / file).exists() else hub
        parser.add_argument(f"--{part}", default=default, help=f"image set; default {hub}, or {file} beside")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cores")
    parser.add_argument("--defenses", nargs="*", help="rows of the table; default all that the preset has time for")
    parser.add_argument(
        "--kept", action="store_true", help="write down what an unfinished run has, and compute nothing"
    )
    parser.add_argument(
        "--resume", type=Path, help="record of a run that ended early, perhaps on another machine: its cells stay"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/bench"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    preset = arguments.preset
    output = arguments.output or RESULTS / f"{name}{'' if preset == 'cpu' else '-' + preset}.json"
    given = [getattr(arguments, part, None) for part in ("train", "test", "public", "natural")]
    scale = SCALES[preset]
    needs = find_protocol(name).needs
    sets = demo_sets(scale, needs) if preset == "smoke" else load_sets(*given, scale=scale, needs=needs, size=size)
    bench = Bench(sets, Store(arguments.runs), arguments.device, partial(print, flush=True))
    if arguments.resume is not None:
        bench.adopt(json.loads(arguments.resume.read_text(encoding="utf-8"))["cells"])
    command = f"python benchmarks/{name}.py --preset {preset}"
    if arguments.defenses is not None:
        command += " --defenses " + shlex.join(arguments.defenses)
    record = run_benchmark(
        name,
        preset,
        bench,
        jobs=arguments.jobs,
        defenses=arguments.defenses,
        kept=arguments.kept,
        command=command,
    )
    write_record(output, record)
    output.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    draw_figures(record, output.parent)
    print(markdown(record))

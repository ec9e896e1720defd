"""`puregen evaluate` and `puregen report`: attacks against defenses, and what came of it."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.data.local import check_path


def evaluate(
    protocol: Annotated[str, typer.Argument(help="Which grid of attacks and defenses; `list` lists them.")],
    train: Annotated[str | None, typer.Argument(help="Training set, with labels; not needed at preset smoke.")] = None,
    test: Annotated[str | None, typer.Argument(help="Its test set.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the record, the report and what is kept.")] = Path(
        "puregen-evaluate"
    ),
    preset: Annotated[str, typer.Option(help="smoke: packaged images, to see it run; cpu: 2 cores; paper: a GPU.")] = (
        "cpu"
    ),
    public: Annotated[str | None, typer.Option(help="Images of other classes, for attackers who learn from them.")] = (
        None
    ),
    natural: Annotated[str | None, typer.Option(help="Images for generators to learn, where they are trained.")] = None,
    defenses: Annotated[
        list[str] | None,
        typer.Option("--defense", help="A row of the table; default all that the preset has time for."),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the cores.")] = 1,
    device: Annotated[str | None, typer.Option(help="Where to run; default a GPU if there is one.")] = None,
) -> None:
    """Poison a training set, defend it, train classifiers and judge them: a table of success and accuracy.

    A killed run goes on where it was. `puregen report` draws several records together.
    """
    with explain_errors():
        for images in filter(None, (train, test, public, natural)):
            check_path(images)
        _evaluate(protocol, train, test, output, preset, public, natural, defenses, jobs, device)


def _evaluate(
    protocol: str,
    train: str | None,
    test: str | None,
    output: Path,
    preset: str,
    public: str | None,
    natural: str | None,
    defenses: list[str] | None,
    jobs: int,
    device: str | None,
) -> None:
    from puregen_transforms.evaluate.benchmark import run_benchmark
    from puregen_transforms.evaluate.protocols import PROTOCOLS, SCALES
    from puregen_transforms.evaluate.records import write_record
    from puregen_transforms.evaluate.report import write_report
    from puregen_transforms.evaluate.run import Bench
    from puregen_transforms.evaluate.sets import demo_sets, load_sets
    from puregen_transforms.evaluate.store import Store
    from puregen_transforms.purifier.device import choose_device

    console = Console()
    if protocol == "list":
        for name, build in PROTOCOLS.items():
            console.print(f"[bold]{name}[/]: {(build.__doc__ or '').strip()}")
        return
    if preset not in SCALES:
        raise ValueError(f"Expected a preset out of {', '.join(SCALES)}, but got {preset!r}.")
    if preset != "smoke" and (train is None or test is None):
        raise ValueError("Expected a training set and a test set: puregen evaluate PROTOCOL TRAIN TEST.")
    sets = (
        demo_sets()
        if train is None or test is None
        else load_sets(train, test, public, natural, images_per_class=SCALES[preset].images_per_class)
    )
    say = partial(console.print, markup=False, highlight=False)
    bench = Bench(sets, Store(output / "kept"), str(choose_device(device)), say)
    given = "" if preset == "smoke" else " TRAIN TEST" + " --public PUBLIC" * (public is not None)
    chosen = "".join(f" --defense {shlex.quote(name)}" for name in defenses or ())
    record = run_benchmark(
        protocol,
        preset,
        bench,
        jobs=jobs,
        defenses=defenses,
        command=f"puregen evaluate {protocol}{given} --preset {preset}{chosen}",
    )
    write_record(output / f"{protocol}.json", record)
    page = write_report([record], output)
    console.print(f"Look at [bold]{page}[/].")


def report(
    records: Annotated[list[Path], typer.Argument(help="JSON records of benchmarks.")],
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("puregen-report"),
) -> None:
    """Draw tables and figures from records alone: report.html, report.md and PNG files."""
    with explain_errors():
        from puregen_transforms.evaluate.report import read_record, write_report

        page = write_report([read_record(path) for path in records], output)
        console = Console()
        console.print(f"Look at [bold]{page}[/].")
        if not has_extra("matplotlib"):
            console.print('Without figures: they need pip install "puregen-transforms\\[report]".')

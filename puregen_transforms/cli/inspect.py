"""`puregen inspect`: audit a possibly poisoned data set, without labels if need be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puregen_transforms.cli.errors import FOUND, explain_errors
from puregen_transforms.cli.labelled_source import ChosenSource, choose_source
from puregen_transforms.cli.options import DATA, NETWORKS, RUNNING
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from puregen_transforms._progress import Progress
    from puregen_transforms.inspection.audit import Inspection
    from puregen_transforms.inspection.dynamics import Advice


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of images, a Parquet file, a folder of them, a saved data set, or its name."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the report; an earlier report in it is replaced.")] = Path(
        "inspect-report"
    ),
    split: Annotated[
        str | None, typer.Option(help="Split to inspect; default: train, or the only one.", rich_help_panel=DATA)
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Image column; default: the only one.", rich_help_panel=DATA)
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="Column of classes; default: the one marked as such, if there is one.", rich_help_panel=DATA),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="A name, owner/name[@revision] or a folder; default: the one in the package.", rich_help_panel=NETWORKS
        ),
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=2, help="How many suspicious images, and as many typical ones, are purified.", rich_help_panel=RUNNING
        ),
    ] = 32,
    seed: Annotated[int, typer.Option(help="Seed of random choices and of the noise.", rich_help_panel=RUNNING)] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, mps ...; default: a GPU if there is one.", rich_help_panel=RUNNING),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in one pass of the network.", rich_help_panel=RUNNING)
    ] = None,
    fail_on: Annotated[
        Literal["suspicious", "unusual"] | None,
        typer.Option(
            help="Verdict from which on the exit code is 2, for pipelines; default: it is 0 for any verdict.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
) -> None:
    """Look for poison in a data set, and write a report with pictures.

    Measures the energy of every image, compares the most suspicious ones of each class (of the whole set, where there
    are no labels) for a perturbation they share, and purifies a sample to recommend what to do. Nothing in SRC is
    changed. The exit code is 0 whatever the verdict, unless --fail-on is given.
    """
    with explain_errors():
        check_path(source)
        from puregen_transforms.inspection.audit import inspect_images
        from puregen_transforms.inspection.page import Origin, write_report

        if output.exists() and not output.is_dir():
            raise NotADirectoryError(f"Expected a folder for the report, but {output} is a file.")
        chosen = choose_source(source, split, column, label_column)
        with _progress_bar() as progress:
            inspection = inspect_images(
                chosen.images,
                chosen.labels,
                class_names=chosen.class_names,
                checkpoint=checkpoint,
                sample=sample,
                seed=seed,
                device=device,
                batch_size=batch_size,
                progress=progress,
            )
        options = {
            "--split": split,
            "--column": column,
            "--label-column": label_column,
            "--checkpoint": checkpoint,
            "--sample": sample,
            "--seed": seed,
        }
        facts = {**chosen.facts, "command": _command(["inspect", source], options)}
        inspection = _naming_the_column(inspection, chosen)
        command = _purify_command(source, chosen, inspection.advice, device=device, batch_size=batch_size)
        origin = Origin(images=chosen.images, facts=facts, name_of=chosen.name_of, purify=command)
        _report(inspection, command, write_report(inspection, output, origin))
        if fail_on is not None and inspection.level in ("suspicious", fail_on):
            raise typer.Exit(FOUND)


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """Show how far each thing that is being done is."""
    from rich.console import Console

    from puregen_transforms.cli.progress import shown_progress

    with shown_progress(Console(stderr=True)) as show:
        yield show


def _command(words: Sequence[str], options: Mapping[str, object]) -> str:
    """Write a command to paste into a shell, with the options that have a value."""
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    return shlex.join(["puregen", *words, *given])


def _purify_command(
    source: str, chosen: ChosenSource, advice: Advice, *, device: str | None, batch_size: int | None
) -> str:
    """Write the command that purifies the source as the advice has it, with all that its steps were measured with."""
    from puregen_transforms.inspection.dynamics import DEFAULT_STEPS

    options: dict[str, object] = {
        "--steps": advice.steps if advice.steps != DEFAULT_STEPS else None,
        "--checkpoint": advice.options.get("checkpoint"),
        "--seed": advice.options.get("seed"),
        "--column": chosen.column if chosen.is_one_of_several else None,
        "--split": chosen.split,
        "--device": device,
        "--batch-size": batch_size,
    }
    return _command(["purify", source, _free_destination(source)], options)


def _free_destination(source: str) -> str:
    """Choose a name for a purified copy, beside the source where that is on this machine."""
    path = Path(source).expanduser()
    if not path.exists():
        path = Path(path.name)
    elif not path.name or path.name == "..":
        path = path.resolve()
    suffix = path.suffix if path.suffix == ".parquet" else ""
    stem = str(path).removesuffix(suffix)
    names = (f"{stem}-purified{number}{suffix}" for number in ("", *(f"-{count}" for count in range(2, 1000))))
    return next(name for name in names if not Path(name).exists())


def _naming_the_column(inspection: Inspection, chosen: ChosenSource) -> Inspection:
    """Name the column in the advice, where a purifier has to be told."""
    if not chosen.is_one_of_several:
        return inspection
    options = {**inspection.advice.options, "columns": chosen.column}
    return replace(inspection, advice=replace(inspection.advice, options=options))


def _report(inspection: Inspection, command: str, page: Path) -> None:
    typer.echo(inspection.headline)
    for sentence in inspection.reasons:
        typer.echo(f"  - {sentence}")
    typer.echo("What to do:")
    for sentence in inspection.advice.sentences:
        typer.echo(f"  - {sentence}")
    typer.echo(f"{'Once they are left out' if inspection.advice.action == 'remove' else 'To purify'}: {command}")
    typer.echo(f"Report with pictures: {page}")

"""`puregen inspect`: search a data set for poison, and look at its energies and what purification would help."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from puregen_transforms._progress import silent
from puregen_transforms.cli.data_options import (
    Column,
    Convert,
    Decided,
    Device,
    Epochs,
    FollowLinks,
    LabelColumn,
    Reserved,
    Size,
    Source,
    Yes,
)
from puregen_transforms.cli.errors import FOUND, explain_errors
from puregen_transforms.cli.options import DATA, NETWORKS, RUNNING
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.searching import (
    STATE,
    agree_to_search,
    check_output,
    command_line,
    print_verdict,
    read_decisions,
    read_reserved,
    suspects_of,
)
from puregen_transforms.data.labelled_source import ChosenSource, choose_source
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from puregen_transforms.inspection.audit import Inspection
    from puregen_transforms.inspection.dynamics import Advice


def inspect(
    source: Source,
    output: Annotated[Path, typer.Option(help="Folder for the report; an earlier report in it is replaced.")] = Path(
        "inspect-report"
    ),
    split: Annotated[
        str | None, typer.Option(help="Split to inspect; default: train, or the only one.", rich_help_panel=DATA)
    ] = None,
    column: Column = None,
    label_column: LabelColumn = None,
    size: Size = None,
    follow_links: FollowLinks = False,
    convert: Convert = False,
    decisions: Decided = None,
    reserved: Reserved = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Energy network: a name, owner/name[@revision] or a folder; default: the one in the package.",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    budget: Annotated[
        Literal["2m", "20m", "full"],
        typer.Option(
            help="How much is searched beside the energies, as of `puregen detect`: what needs no network; what one "
            "classifier shows; all, with --reserved.",
            rich_help_panel=RUNNING,
        ),
    ] = "20m",
    epochs: Epochs = 12,
    sample: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many images that were found, and as many typical ones, are purified for the advice; 0 for none. "
            "Default: 32, fewer of images above 90 pixels, none above 256.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random choices and of the noise.", rich_help_panel=RUNNING)] = 0,
    device: Device = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in one pass of the energy network.", rich_help_panel=RUNNING)
    ] = None,
    fail_on_flagged: Annotated[
        bool, typer.Option(help="Exit with code 2 if an image is flagged, for pipelines.", rich_help_panel=RUNNING)
    ] = False,
    yes: Yes = False,
) -> None:
    """Search a data set for poison, and look closer: energies, and what purification would help.

    Makes the searches of `puregen detect`; the report also shows the energy of every image, and what purification does
    to a sample of the images that were found. Nothing in SRC is changed. A search that was killed goes on when it is
    started again in the same way.
    """
    with explain_errors():
        check_path(source)
        from puregen_transforms.detection.decisions import overrule
        from puregen_transforms.detection.energy import SharedPatterns
        from puregen_transforms.detection.verdict import NOTHING_FOUND
        from puregen_transforms.detection.whole_search import detectors_of, train_small
        from puregen_transforms.inspection.audit import inspect_images
        from puregen_transforms.inspection.origin import Origin
        from puregen_transforms.inspection.page import write_inspection

        check_output(output)
        decided = read_decisions(decisions, output)
        console = PlainConsole()
        chosen = choose_source(
            source, split, column, label_column, size=size, follow_links=follow_links, convert=convert
        )
        clean = read_reserved(reserved, chosen, size)
        suspects = replace(suspects_of(chosen, output, seed, device, silent), reserved=clean)
        energies = SharedPatterns(checkpoint=checkpoint, batch_size=batch_size)  # measured whatever the budget
        agree_to_search(suspects, [energies, *detectors_of(suspects, budget)], epochs=epochs, yes=yes)
        with shown_progress(PlainConsole(stderr=True)) as progress:
            inspection = inspect_images(
                chosen.images,
                chosen.labels,
                class_names=chosen.class_names,
                reserved=clean,
                budget=budget,
                train=partial(train_small, epochs=epochs),
                checkpoint=checkpoint,
                sample=sample,
                seed=seed,
                device=device,
                batch_size=batch_size,
                state=output / STATE,
                progress=progress,
                overrule=partial(overrule, decisions=decided, digest_of=chosen.images.digest_of),
            )
        options = {
            "--decisions": decisions,
            "--split": split,
            "--column": column,
            "--label-column": label_column,
            "--size": size,
            "--convert": convert,
            "--reserved": reserved,
            "--checkpoint": checkpoint,
            "--budget": budget,
            "--epochs": epochs,
            "--sample": sample,
            "--seed": seed,
        }
        facts = {**chosen.facts, **decided.facts(), "command": command_line(["inspect", source], options)}
        inspection = _naming_the_column(inspection, chosen)
        command = _purify_command(source, chosen, inspection.advice, device=device, batch_size=batch_size)
        origin = Origin(images=chosen.images, facts=facts, name_of=chosen.name_of, opened=chosen.opened, purify=command)
        page = write_inspection(inspection, output, origin)
        shutil.rmtree(output / STATE, ignore_errors=True)
        _report(console, inspection, command, page)
        if fail_on_flagged and inspection.verdict.level != NOTHING_FOUND:
            raise typer.Exit(FOUND)


def _purify_command(
    source: str, chosen: ChosenSource, advice: Advice, *, device: str | None, batch_size: int | None
) -> str:
    """Write the command that purifies the source as the advice has it, with all that its steps were measured with."""
    from puregen_transforms.inspection.dynamics import DEFAULT_METHOD, DEFAULT_STEPS

    options: dict[str, object] = {
        "--method": advice.method if advice.method != DEFAULT_METHOD else None,
        "--steps": advice.steps if advice.steps != DEFAULT_STEPS else None,
        "--checkpoint": advice.options.get("checkpoint"),
        "--seed": advice.options.get("seed"),
        "--column": chosen.column if chosen.is_one_of_several else None,
        "--split": chosen.split,
        "--convert": chosen.convert,
        "--device": device,
        "--batch-size": batch_size,
    }
    return command_line(["purify", source, _free_destination(source)], options)


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


def _report(console: Console, inspection: Inspection, command: str, page: Path) -> None:
    print_verdict(console, inspection.verdict)
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"Energies: {inspection.energies_headline}")
    say("What to do:")
    for sentence in inspection.advice.sentences:
        say(f"  - {sentence}")
    say(f"{'To purify the rest' if inspection.advice.action == 'remove' else 'To purify'}: {command}")
    say(f"Look at {page}.")

"""`puregen purify`: write a purified copy of a data set."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from puregen_transforms.cli.copying import how_to_open, terminated_like_interrupted
from puregen_transforms.cli.data_options import ImageFormat, KeepNames, Quality, Yes
from puregen_transforms.cli.errors import INCOMPLETE, explain_errors
from puregen_transforms.cli.options import DATA, METHOD, NETWORKS, RUNNING, options_of
from puregen_transforms.cli.output import PlainConsole, say
from puregen_transforms.data.local import check_path
from puregen_transforms.purifier.puregen_config import CHECKPOINTS, PureGenConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    from puregen_transforms import PureGen
    from puregen_transforms.whole_sets.processes import Processes
    from puregen_transforms.whole_sets.summary import CopyProgress, Summary
    from puregen_transforms.whole_sets.workload import Estimate

SHOWN_SKIPPED = 20
MEASURED_AT_ONCE = 256
"""Images that `PureGen.fit` takes before it measures them: only then is it further."""


@options_of(
    PureGenConfig,
    panels={
        "PureGenConfig": METHOD,
        **dict.fromkeys(CHECKPOINTS, NETWORKS),
        "seed": RUNNING,
        "dtype": RUNNING,
    },
    without=("columns",),
    flags={"ebm_steps": ("--ebm-steps", "--steps")},
    defaults={"seed": 0},
)
def purify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of images, a Parquet file, a folder of them, a saved data set, or its name."
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(metavar="DST", help="A new folder, or for tables a new .parquet file. Nothing is overwritten."),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(help="Image column to purify; repeat it; default: the only one.", rich_help_panel=DATA),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to copy; repeat it; default: all.", rich_help_panel=DATA)
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(
            help="At an image that cannot be repaired: stop, and write nothing; or skip it, list it, and exit with 3 "
            "(0 under a launcher).",
            rich_help_panel=DATA,
        ),
    ] = "stop",
    follow_links: Annotated[
        bool,
        typer.Option(
            "--follow-links",
            help="Copy also what links in SRC lead to elsewhere, and what a single table names beside it; without it, "
            "such a link is an image that cannot be repaired.",
            rich_help_panel=DATA,
        ),
    ] = False,
    convert: Annotated[
        bool,
        typer.Option(
            "--convert",
            help="Read images that would be refused as torchvision does: in RGB where their mode is 1, P, PA, CMYK, "
            "YCbCr or LAB, or FORMAT has no place for their transparency or gray; of an animation, the first frame. "
            "Images of 16 bits are refused all the same.",
            rich_help_panel=DATA,
        ),
    ] = False,
    keep_names: KeepNames = False,
    image_format: ImageFormat = None,
    quality: Quality = None,
    id_column: Annotated[
        str | None,
        typer.Option(help="Column of unique ids, for engine ray; default: made by Ray.", rich_help_panel=DATA),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where to run: cpu, cuda, cuda:1, mps ...; default: a GPU if there is one.", rich_help_panel=RUNNING
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Images in one network call; default: chosen by their size and the device.", rich_help_panel=RUNNING
        ),
    ] = None,
    part_rows: Annotated[
        int | None,
        typer.Option(
            help="Rows of a part: a file of a table, and what a killed run does again at most; default: some minutes' "
            "work, and up to 1024. A copy that is begun keeps its own.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    engine: Annotated[
        Literal["accelerate", "ray"],
        typer.Option(
            help="Processes that share the work: this one or those of its launcher (accelerate), or a Ray cluster "
            "(ray), for Parquet.",
            rich_help_panel=RUNNING,
        ),
    ] = "accelerate",
    yes: Yes = False,
    **options: Any,
) -> None:
    """Write a purified copy of a data set: same layout, labels, splits and order.

    Where there are several columns of images, name those to purify: others, such as masks, are copied as they are.
    Images are stored without loss: JPEG, GIF and other lossy formats become PNG, and metadata.csv, .jsonl and
    .parquet follow the new names; --keep-names and --format have it otherwise. Images are turned upright by their EXIF
    orientation, which is not kept. Hidden files are left out. DST appears when everything is done; until then finished
    parts are kept in DST.unfinished, and the same command goes on from there. Under `accelerate launch` or `torchrun`,
    all processes share the work.
    """
    with explain_errors(), terminated_like_interrupted():
        check_path(source)
        from puregen_transforms import PureGen
        from puregen_transforms.whole_sets.part_by_part import purify_copy
        from puregen_transforms.whole_sets.plan import copy_of
        from puregen_transforms.whole_sets.processes import started_processes
        from puregen_transforms.whole_sets.storage import LOSSLESS, Storage

        started = time.monotonic()
        destination = destination.expanduser()
        storage = Storage(convert=convert, keep_names=keep_names, image_format=image_format, quality=quality)
        processes = started_processes(device)
        purifier = PureGen(**options, columns=column if engine == "ray" else None, device=device, batch_size=batch_size)
        _try_out(purifier)
        if engine == "ray":
            refused = {"--split": split, "--on-error": on_error != "stop", "--follow-links": follow_links}
            refused["--convert, --keep-names, --format, --quality"] = storage != LOSSLESS
            names = [name for name, value in refused.items() if value]
            _purify_with_ray(source, destination, purifier, id_column, part_rows, names)
            return
        if id_column is not None:
            raise ValueError("Expected --id-column with --engine ray alone, but got it with accelerate.")
        columns, splits = tuple(column or ()), tuple(split or ())
        with _explained_rest(destination), _progress_bar(processes) as progress:
            outcome = purify_copy(
                found := copy_of(
                    source, destination, columns=columns, splits=splits, follow_links=follow_links, storage=storage
                ),
                destination,
                purifier,
                fit=lambda purifier: _fit(purifier, found.pictures(skip=on_error == "skip"), found.images),
                on_error=on_error,
                part_rows=part_rows,
                processes=processes,
                progress=progress,
                say=lambda sentence: say(sentence, err=True),
                agree=partial(_agree, purifier, yes=yes),
            )
        if not processes.is_first:
            return
        _report(outcome, destination, seconds=time.monotonic() - started)
        if outcome.resisting:
            say(
                f"Still suspicious: {outcome.resisting} images kept a high energy through all that method "
                f"{purifier.config.method!r} does. Find them with: puregen inspect {destination}",
                err=True,
            )
    if outcome.skipped and processes.count == 1:  # a launcher would take it for a crash
        raise typer.Exit(INCOMPLETE)


def _purify_with_ray(
    source: str, destination: Path, purifier: PureGen, id_column: str | None, part_rows: int | None, refused: list[str]
) -> None:
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray

    if refused:
        raise ValueError(f"Expected options that engine ray has, but got {', '.join(refused)}.")
    started = time.monotonic()
    outcome = purify_with_ray(source, destination, purifier, id_column=id_column, part_rows=part_rows)
    _report(outcome, destination, seconds=time.monotonic() - started)


def _agree(purifier: PureGen, expected: Estimate, *, yes: bool) -> None:
    """Say what would take less time, and ask where it is much."""
    from puregen_transforms.cli.consent import ask_before
    from puregen_transforms.whole_sets.cheaper import cheaper_than

    if (sentence := cheaper_than(purifier, expected)) is not None:
        say(sentence, err=True)
    ask_before(expected.total, yes=yes)


def _fit(purifier: PureGen, images: Iterator[Image], total: int | None) -> None:
    """Set the energy threshold from all images that are to be purified."""
    from puregen_transforms.cli.progress import shown_progress

    say("First pass: measuring the energy of every image.", err=True)
    with shown_progress(PlainConsole(stderr=True)) as show:
        count = 0

        def counted() -> Iterator[Image]:
            nonlocal count
            for image in images:
                if count % MEASURED_AT_ONCE == 0:
                    show("measuring energies", count, total)
                yield image
                count += 1

        purifier.fit(counted())
        show("measuring energies", count, total)
    say(f"Energy threshold: {purifier.config.energy_threshold:.6g}", err=True)


@contextmanager
def _explained_rest(destination: Path) -> Iterator[None]:
    """Say, after a failure, what there is to go on from."""
    from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

    try:
        yield
    except BaseException:
        unfinished = UnfinishedCopy(destination.absolute())
        if finished := sum(1 for _ in unfinished.records()):
            say(
                f"{finished} finished parts are kept in {unfinished.folder}: the same command goes on from there.",
                err=True,
            )
        raise


def _try_out(purifier: PureGen) -> None:
    """Load the weights and use the device once: what fails here is not the fault of an image.

    Raises:
        ValueError: the device does not work on this machine, or the weights cannot be used.
    """
    try:
        purifier.warm_up()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"Expected a device that works on this machine, but {purifier.device or 'the default'} "
            f"does not: {error} `puregen doctor` lists those that do."
        ) from error


@contextmanager
def _progress_bar(processes: Processes) -> Iterator[CopyProgress]:
    """Show how far the first process is with its share."""
    from puregen_transforms.cli.progress import shown_progress

    with shown_progress(PlainConsole(stderr=True)) as show:

        def progress(done: int, total: int | None, kept: int) -> None:
            if processes.is_first:
                share = None if total is None else max(done, total // processes.count)
                show("purifying", done, share, kept=kept)

        yield progress


def _report(outcome: Summary, destination: Path, *, seconds: float) -> None:
    """Report what was left out, what to know, and where the result is."""
    from puregen_transforms.whole_sets.unfinished_copy import skipped_path

    for skipped in outcome.skipped[:SHOWN_SKIPPED]:
        say(f"Skipped {skipped}", err=True)
    if outcome.skipped:
        say(f"Skipped in all: {len(outcome.skipped)}, listed in {skipped_path(destination)}.", err=True)
    for note in outcome.notes:
        say(f"Note: {note}", err=True)
    say(f"Purified {outcome.images} images in {seconds:.1f} s: {destination}, open it with {how_to_open(destination)}")

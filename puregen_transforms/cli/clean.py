"""`puregen clean`: from a data set that may be poisoned to a clean, verified copy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from puregen_transforms._progress import datasets_bars_hidden
from puregen_transforms.cli.consent import ask_before
from puregen_transforms.cli.copying import how_to_open, terminated_like_interrupted
from puregen_transforms.cli.data_options import (
    Actors,
    Column,
    Decided,
    Device,
    Engine,
    Epochs,
    FollowLinks,
    ImageFormat,
    KeepNames,
    LabelColumn,
    Quality,
    Reserved,
    Seed,
    Source,
    Yes,
)
from puregen_transforms.cli.errors import FOUND, explain_errors
from puregen_transforms.cli.options import DATA, RUNNING
from puregen_transforms.cli.output import PlainConsole, say
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.searching import choose_search, command_line, read_decisions
from puregen_transforms.data.local import check_path, local_path

if TYPE_CHECKING:
    from puregen_transforms.cleaning import CleaningReport
    from puregen_transforms.cleaning.places import Places
    from puregen_transforms.cleaning.work import Cleaned


def clean(
    source: Source,
    destination: Annotated[
        Path,
        typer.Argument(metavar="DST", help="A new folder, or for tables a new .parquet file. Nothing is overwritten."),
    ],
    flagged: Annotated[
        Literal["drop", "purify", "quarantine"],
        typer.Option(
            help="Images that are held for poisoned: leave out; purify; or leave out, and copy to DST.quarantine with "
            "names and folders as they are, so that one can be put back."
        ),
    ] = "drop",
    others: Annotated[
        Literal["keep", "purify"], typer.Option(help="All other images: copied byte for byte, or purified.")
    ] = "keep",
    doubtful: Annotated[
        bool, typer.Option("--doubtful", help="Do with doubtful images as with those held for poisoned.")
    ] = False,
    budget: Annotated[
        Literal["2m", "20m", "full"],
        typer.Option(
            help="How much is searched, as of `puregen detect`: what needs no network; what one classifier shows; all, "
            "with --reserved."
        ),
    ] = "20m",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and about how long it takes; write nothing.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for the report; default: DST.report.")] = None,
    reserved: Reserved = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split to clean; repeat it; default: all. Each is searched on its own.", rich_help_panel=DATA
        ),
    ] = None,
    column: Column = None,
    label_column: LabelColumn = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Resize images for the search, the shorter side to this many pixels, and crop their center: images of "
            "several sizes cannot be compared. The copy has them as they are.",
            rich_help_panel=DATA,
        ),
    ] = None,
    follow_links: FollowLinks = False,
    convert: Annotated[
        bool,
        typer.Option(
            "--convert",
            help="Read images that would be refused for their mode (1, P, PA, CMYK, YCbCr, LAB), and the first frame "
            "of an animation, in RGB, as torchvision does; the copy has them so. All others, and those in quarantine, "
            "stay as they are.",
            rich_help_panel=DATA,
        ),
    ] = False,
    keep_names: KeepNames = False,
    image_format: ImageFormat = None,
    quality: Quality = None,
    decisions: Decided = None,
    epochs: Epochs = 12,
    seed: Seed = 0,
    device: Device = None,
    engine: Engine = "local",
    actors: Actors = None,
    part_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows of a part: a file of a table, and what a killed run copies again at most.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    fail_on_flagged: Annotated[
        bool,
        typer.Option(
            help="Exit with code 2 if an image is poisoned or doubtful, for pipelines; the copy is written all the "
            "same.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Search a data set for poison, and write a copy without it: same layout, labels, order and bytes.

    Makes the searches of `puregen detect`, leaves out what they hold for poisoned, and verifies the copy. Images whose
    label alone is wrong are no poison, and stay. What was found, the rule and the versions are in the copy's
    purified.jsonl, images that were left out in its skipped.json, and pictures in DST.report. Nothing in SRC is
    changed. --keep-names, --format and --quality are for images that are purified or converted. DST appears when
    everything is done; a run that was killed goes on when it is started again in the same way, and a finished one
    answers from its records.
    """
    with explain_errors(), terminated_like_interrupted():
        check_path(source)
        from puregen_transforms.cleaning.places import STATE, Places
        from puregen_transforms.cleaning.plan import plan
        from puregen_transforms.cleaning.records import recorded
        from puregen_transforms.cleaning.rule import Rule, check_storage, name_of_reserved
        from puregen_transforms.cleaning.sources import open_to_clean
        from puregen_transforms.cleaning.work import clean
        from puregen_transforms.data.image_set import ImageSet
        from puregen_transforms.detection.verdict import NOTHING_FOUND
        from puregen_transforms.whole_sets.plan import check_apart
        from puregen_transforms.whole_sets.storage import Storage

        started = time.monotonic()
        search = choose_search(engine, actors)
        places = Places.of(destination.expanduser(), report)
        for place in (places.copy, places.report):
            check_apart(local_path(source), place)
        if reserved is not None:
            check_path(reserved)
        clean_set = None if reserved is None else ImageSet.load(reserved, size=size, convert=convert)
        decided = places.decisions() if decisions is None else read_decisions(decisions, places.report)
        rule = Rule(
            flagged=flagged,
            others=others,
            doubtful=doubtful,
            budget=budget,
            epochs=epochs,
            seed=seed,
            size=size,
            column=column,
            label_column=label_column,
            reserved=name_of_reserved(clean_set),
            decisions=decided.name(),
        )
        storage = Storage(convert=convert, keep_names=keep_names, image_format=image_format, quality=quality)
        check_storage(storage, rule)
        with datasets_bars_hidden():
            opened = open_to_clean(
                source,
                column=column,
                label_column=label_column,
                splits=tuple(split or ()),
                size=size,
                follow_links=follow_links,
                storage=storage,
            )
        if before := recorded(places.copy, rule):
            say(
                f"The search was made already, by puregen-transforms {before.report.versions['puregen-transforms']}.",
                err=True,
            )
        else:
            found = plan(opened, places, rule, reserved=clean_set, device=device)
            for sentence in found.sentences():
                say(sentence, err=not dry_run)
            # How much is left of a search that was killed is not known, nor how long actors take.
            ask_before(found.total, yes=yes or dry_run or search is not None or (places.report / STATE).exists())
        if dry_run:
            say("Nothing was written.")
            return
        options = {
            "--flagged": flagged,
            "--others": others,
            "--budget": budget,
            "--report": report,
            "--column": column,
            "--label-column": label_column,
            "--size": size,
            "--convert": convert,
            "--keep-names": keep_names,
            "--format": image_format,
            "--quality": quality,
            "--reserved": reserved,
            "--decisions": decisions,
            "--epochs": epochs,
            "--seed": seed,
        }
        words = ["clean", source, str(destination), *(["--doubtful"] if doubtful else [])]
        words += [word for name in split or () for word in ("--split", name)]
        with _explained_rest(places), shown_progress(PlainConsole(stderr=True)) as progress:
            done = clean(
                opened,
                places,
                rule,
                reserved=clean_set,
                decisions=decided,
                device=device,
                search=search,
                part_rows=part_rows,
                command=command_line(words, options),
                progress=progress,
                say=lambda sentence: say(sentence, err=True),
            )
        _print(done, places, flagged, seconds=time.monotonic() - started)
        if fail_on_flagged and done.report.level != NOTHING_FOUND:
            raise typer.Exit(FOUND)


@contextmanager
def _explained_rest(places: Places) -> Iterator[None]:
    """Say, after a failure, what there is to go on from."""
    from puregen_transforms.cleaning.places import STATE
    from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy

    try:
        yield
    except BaseException:
        kept = [
            place for place in (places.report / STATE, UnfinishedCopy(places.copy.absolute()).folder) if place.exists()
        ]
        if kept:
            names = " and ".join(map(str, kept))
            say(f"What is finished is kept in {names}: the same command goes on from there.", err=True)
        raise


def _print(found: Cleaned, places: Places, flagged: str, *, seconds: float) -> None:
    """Say what was found, what was not looked for, what became of it, and where everything is."""
    report = found.report
    _print_findings(report)
    for note in report.notes:
        say(f"Note: {note}", err=True)
    gone = sum(map(len, found.treatment.left_out.values()))
    done = f"written and verified in {seconds:.1f} s" if found.is_new else "complete already"
    say(f"Clean copy: {places.copy}, {found.images:,} images, without {gone:,}; {done}.")
    if gone and flagged == "quarantine":
        say(f"What was left out: {places.quarantine}. Names are as in SRC: move a file to where it was to put it back.")
    if report.page is not None:
        say(f"Look at {report.page}. The hash of the manifest, to be kept elsewhere: {found.manifest_sha256}.")
    say(f"Open it with {how_to_open(places.copy)}")


def _print_findings(report: CleaningReport) -> None:
    for split, one in report.splits.items():
        say(f"{split}: {one.headline}" if len(report.splits) > 1 else one.headline)
        for name, count in one.found_by.items():
            say(f"  {name}: {count:,} images")
        if one.doubtful and not report.rule["doubtful"]:
            say(f"  {one.doubtful:,} doubtful images were kept: look at them (--doubtful treats them as poisoned).")
        if one.mislabeled:
            say(f"  kept, though the label does not fit: {one.mislabeled:,} (that alone is no poison)")
    say("Not looked for, so it could still be there:")
    for line in report.not_looked_for:
        say(f"  {line}")

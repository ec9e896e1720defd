"""`puregen detect`: search a data set for poison, with every detector that fits or with one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from puregen_transforms._progress import silent
from puregen_transforms._text import shown
from puregen_transforms.cli.data_options import (
    Actors,
    Column,
    Convert,
    Decided,
    Device,
    Engine,
    Epochs,
    FollowLinks,
    LabelColumn,
    Reserved,
    Seed,
    Size,
    Yes,
)
from puregen_transforms.cli.errors import FOUND, explain_errors
from puregen_transforms.cli.options import DATA, RUNNING
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.searching import (
    STATE,
    agree_to_search,
    check_output,
    choose_search,
    command_line,
    origin_of,
    read_decisions,
    read_reserved,
    search_whole,
    show_verdict,
    suspects_of,
)
from puregen_transforms.cli.settings import parse_settings
from puregen_transforms.data.labelled_source import choose_source
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from puregen_transforms.detection import DetectionReport, Detector


def detect(
    first: Annotated[
        str,
        typer.Argument(
            metavar="[DETECTOR]",
            help="One detector; `list` lists them, with what they need. Default: every one that fits.",
            show_default=False,
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A folder of images, a Parquet file, a folder of them, a saved data set, or its name.",
            show_default=False,
        ),
    ] = "",
    budget: Annotated[
        Literal["2m", "20m", "full"],
        typer.Option(
            help="How much is searched without DETECTOR, by the time that 10,000 images of 32 px take on two cores: "
            "what needs no network; what one classifier shows; all, with --reserved."
        ),
    ] = "20m",
    output: Annotated[Path, typer.Option(help="Folder for the report; an earlier report in it is replaced.")] = Path(
        "detect-report"
    ),
    preset: Annotated[
        str | None,
        typer.Option(help="Settings to begin with, where the detector has presets: smoke, cpu or paper; default: cpu."),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the detector; repeat it.")
    ] = None,
    reserved: Reserved = None,
    split: Annotated[
        str | None, typer.Option(help="Split to search; default: train, or the only one.", rich_help_panel=DATA)
    ] = None,
    column: Column = None,
    label_column: LabelColumn = None,
    size: Size = None,
    follow_links: FollowLinks = False,
    convert: Convert = False,
    decisions: Decided = None,
    epochs: Epochs = 12,
    seed: Seed = 0,
    device: Device = None,
    engine: Engine = "local",
    actors: Actors = None,
    fail_on_flagged: Annotated[
        bool, typer.Option(help="Exit with code 2 if an image is flagged, for pipelines.", rich_help_panel=RUNNING)
    ] = False,
    yes: Yes = False,
) -> None:
    """Search a data set for poison, and say which images should not be learned.

    Without DETECTOR, every search that the set and the budget allow is made. The folder gets `report.html`, with the
    verdict, pictures, and what was not looked for; `verdict.json`; `images.csv` and `images.parquet`, a line for each
    image with the scores of all searches; and `searches/`, what each of them found. With DETECTOR, that one scores
    every image, and the folder gets `report.safetensors` (`DetectionReport.load` reads it), `images.csv`, and
    `opened.json`, how SRC was opened; one detector sees one kind of attack. `puregen review` shows either.

    Nothing in SRC is changed. A search that was killed goes on when it is started again in the same way.
    """
    with explain_errors():
        console = PlainConsole()
        if first == "list" and not second:
            _list(console)
            return
        name, source = (first, second) if second else (None, first)
        if name is None and _is_detector(first):
            raise ValueError("Expected a data set after the detector: puregen detect NAME SRC.")
        check_path(source)
        check_output(output)
        if name is None:
            from puregen_transforms.detection.decisions import overrule
            from puregen_transforms.detection.verdict import NOTHING_FOUND

            decided = read_decisions(decisions, output)
            if preset is not None or setting:
                raise ValueError("Expected a detector for --preset and --set: puregen detect DETECTOR SRC.")
            chosen = choose_source(
                source, split, column, label_column, size=size, follow_links=follow_links, convert=convert
            )
            clean = read_reserved(reserved, chosen, size)
            verdict = search_whole(
                replace(suspects_of(chosen, output, seed, device, silent), reserved=clean),
                choose_search(engine, actors),
                budget=budget,
                epochs=epochs,
                yes=yes,
            )
            verdict = overrule(verdict, decided, chosen.images.digest_of)
            options = {
                "--decisions": decisions,
                "--split": split,
                "--column": column,
                "--label-column": label_column,
                "--size": size,
                "--convert": convert,
                "--reserved": reserved,
                "--budget": budget,
                "--epochs": epochs,
                "--seed": seed,
            }
            command = command_line(["detect", source], options)
            facts = {**chosen.facts, **decided.facts(), "command": command}
            show_verdict(console, verdict, chosen, output, facts)
            shutil.rmtree(output / STATE, ignore_errors=True)
            if fail_on_flagged and verdict.level != NOTHING_FOUND:
                raise typer.Exit(FOUND)
            return
        from puregen_transforms.detection.detector import check_needs
        from puregen_transforms.detection.registry import detect
        from puregen_transforms.detection.whole_search import train_small
        from puregen_transforms.inspection.one_detector import write_report

        if engine == "ray":
            raise ValueError("Expected a whole search with --engine ray: puregen detect SRC, without a detector.")
        detector = _build(name, preset, parse_settings(setting or []))
        chosen = choose_source(
            source, split, column, label_column, size=size, follow_links=follow_links, convert=convert
        )
        clean = read_reserved(reserved, chosen, size)
        there = {"labels": chosen.labels is not None, "reserved": clean is not None, "network": True}
        check_needs(name, detector, {need for need, given in there.items() if given})
        agree_to_search(suspects_of(chosen, output, seed, device, silent), [detector], epochs=epochs, yes=yes)
        with shown_progress(PlainConsole(stderr=True)) as progress:
            network = None
            if "network" in detector.needs:
                network = train_small(suspects_of(chosen, output, seed, device, progress), epochs=epochs)
            report = detect(
                detector,
                chosen.images,
                chosen.labels,
                class_names=chosen.class_names,
                reserved=clean,
                network=network,
                seed=seed,
                device=device,
                state=output / STATE,
                progress=progress,
            )
        write_report(report, output, origin_of(chosen, chosen.facts))
        shutil.rmtree(output / STATE, ignore_errors=True)
        _show(console, report, output)
        if fail_on_flagged and report.flagged.any():
            raise typer.Exit(FOUND)


def _is_detector(word: str) -> bool:
    """Tell whether a lone word names a detector, and nothing on this machine."""
    from puregen_transforms.detection.registry import DETECTORS

    return word.lower().replace("-", "_") in DETECTORS and not Path(word).exists()


def _build(name: str, preset: str | None, settings: dict[str, Any]) -> Detector:
    """Make a detector with its settings, from the preset "cpu" on where it has presets and none is named."""
    from puregen_transforms.detection.registry import build_detector

    if preset is None and build_detector(name).presets:
        preset = "cpu"
    return build_detector(name, preset=preset, **settings)


def _show(console: Console, report: DetectionReport, output: Path) -> None:
    console.print(f"{report}.", highlight=False)
    suspicious = [one for one in report.classes if one.flagged]
    if suspicious:
        table = Table("class", "images", "flagged")
        for one in suspicious:
            table.add_row(shown(one.name), str(one.images), str(one.flagged))
        console.print(table)
    console.print(f"Report in {output}.", highlight=False)


def _list(console: Console) -> None:
    """Print what every detector does, what it needs, and its settings."""
    import inspect

    from puregen_transforms.detection.registry import DETECTORS, settings_of

    for name, made in DETECTORS.items():
        lines = [(inspect.getdoc(made) or "").split("\n")[0]]
        lines.append(f"needs: {', '.join(sorted(getattr(made, 'needs', ()))) or 'images alone'}")
        if presets := getattr(made, "presets", ()):
            lines.append(f"presets: {', '.join(presets)}")
        lines.append("settings: " + ", ".join(f"{key}={value!r}" for key, value in settings_of(made).items()))
        console.print(name, style="bold", highlight=False)
        for line in lines:
            console.print(Padding(Text(line), (0, 0, 0, 2)))

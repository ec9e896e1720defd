"""`puregen evaluate` and `puregen report`: attacks against defenses, and what came of it."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.options import DATA, RUNNING
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    from puregen_transforms.evaluate.presets import Scale
    from puregen_transforms.evaluate.protocols import Protocol
    from puregen_transforms.evaluate.sets import Sets


def evaluate(
    protocol: Annotated[
        str, typer.Argument(help="The experiment; `list` lists them, with what they need and how long they take.")
    ],
    train: Annotated[
        str | None,
        typer.Argument(help="Labelled training set, of any classes and size; at preset smoke, default packaged ones."),
    ] = None,
    test: Annotated[
        str | None, typer.Argument(help="Its test set; default: a quarter of each class of TRAIN is held out.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the record, the report and what is kept.")] = Path(
        "puregen-evaluate"
    ),
    preset: Annotated[
        Literal["smoke", "cpu", "paper"],
        typer.Option(help="smoke: two minutes, to see how it works; cpu: hours on 2 cores; paper: days on a GPU."),
    ] = "cpu",
    defenses: Annotated[
        list[str] | None,
        typer.Option("--defense", help="A row of the table; repeat it; default: all that the preset has time for."),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(
            help="Images of other classes, for attackers who learn from them; at preset smoke, default packaged ones.",
            rich_help_panel=DATA,
        ),
    ] = None,
    natural: Annotated[
        str | None,
        typer.Option(help="Images for generators to learn, where they are trained.", rich_help_panel=DATA),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="Resize images, the shorter side to this many pixels, and crop their center; needed where they are of "
            "several sizes.",
            rich_help_panel=DATA,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help='Protocol photographs: the frozen network under the victims, such as "resnet50.a1_in1k" (timm), '
            '"torchvision:resnet18" or "hf-hub:OWNER/NAME"; default: EfficientNet-Lite0 of the extra "features".',
            rich_help_panel=RUNNING,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the cores.", rich_help_panel=RUNNING)] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, mps ...; default: an accelerator if there is one.", rich_help_panel=RUNNING
        ),
    ] = None,
) -> None:
    """Poison a training set, defend it, train classifiers and judge them: a table of success and accuracy.

    A killed run goes on where it was. `puregen report` draws several records together.
    """
    with explain_errors():
        from puregen_transforms.evaluate.bench import Bench
        from puregen_transforms.evaluate.benchmark import run_benchmark
        from puregen_transforms.evaluate.frozen import DEFAULT_BACKBONE
        from puregen_transforms.evaluate.portable import portable
        from puregen_transforms.evaluate.protocols import find_protocol, find_scale
        from puregen_transforms.evaluate.records import write_record
        from puregen_transforms.evaluate.report import write_report
        from puregen_transforms.evaluate.store import Store
        from puregen_transforms.purifier.device import choose_device

        console = PlainConsole()
        if protocol == "list":
            console.print(_list())
            return
        found, scale = find_protocol(protocol), find_scale(preset)
        sets = _sets(found, scale, train, test, public, natural, size)
        say = partial(console.print, highlight=False)
        bench = Bench(sets, Store(output / "kept"), str(choose_device(device)), say, backbone or DEFAULT_BACKBONE)
        words = ["puregen", "evaluate", protocol, *(["TRAIN"] if train else []), *(["TEST"] if test else [])]
        words += [*(["--public", "PUBLIC"] if public else []), *(["--size", str(size)] if size else [])]
        named = portable({"backbone": backbone})["backbone"]
        words += [*(["--backbone", named] if named else []), "--preset", preset]
        words += [word for name in defenses or () for word in ("--defense", name)]
        record = run_benchmark(protocol, preset, bench, jobs=jobs, defenses=defenses, command=shlex.join(words))
        write_record(output / f"{protocol}.json", record)
        page = write_report([record], output)
        console.print(f"Look at {page}.")


def _sets(
    protocol: Protocol,
    scale: Scale,
    train: str | None,
    test: str | None,
    public: str | None,
    natural: str | None,
    size: int | None,
) -> Sets:
    """Read the images, or take the packaged ones.

    Raises:
        ValueError: no training set, but at the preset "smoke".
    """
    from puregen_transforms.evaluate.sets import demo_sets, load_sets

    for images in filter(None, (train, test, public, natural)):
        check_path(images)
    if train is None:
        if scale.name != "smoke":
            raise ValueError("Expected a training set and a test set: puregen evaluate PROTOCOL TRAIN TEST.")
        return demo_sets(scale, protocol.needs)
    return load_sets(train, test, public, natural, scale=scale, needs=protocol.needs, size=size)


def _list() -> Table:
    from puregen_transforms.evaluate.presets import SCALES
    from puregen_transforms.evaluate.protocols import PROTOCOLS

    cpu = SCALES["cpu"]
    words = {
        "public": "images of other classes (--public)",
        "transfer": f"{cpu.pretrain + cpu.fine_tune:,} and more images of each class",
        "reserved": "a test set of which at most 2,000 images, or half, are kept for detectors",
        "natural": "any images (--natural; default TRAIN)",
    }
    table = Table("protocol", "what it asks", "needs beside TRAIN and TEST", "takes, on 2 cores")
    for name, protocol in PROTOCOLS.items():
        needs = [words[need] for need in sorted(protocol.needs)]
        times = [f"{preset}: {time}" for preset, time in protocol.duration.items()]
        table.add_row(name, protocol.summary, "\n".join(needs) or "nothing", "\n".join(times) or "not measured")
    return table


def report(
    records: Annotated[list[Path], typer.Argument(help="JSON records of benchmarks.")],
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("puregen-report"),
) -> None:
    """Draw tables and figures from records alone: report.html, report.md and PNG files."""
    with explain_errors():
        from puregen_transforms.evaluate.report import read_record, write_report

        page = write_report([read_record(path) for path in records], output)
        console = PlainConsole()
        console.print(f"Look at {page}.")
        if not has_extra("matplotlib"):
            console.print('Without figures: they need pip install "puregen-transforms[report]".')

"""Options that several commands on data sets have, each documented once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from puregen_transforms.cli.options import DATA, RUNNING

Source = Annotated[
    str,
    typer.Argument(
        metavar="SRC", help="A folder of images, a Parquet file, a folder of them, a saved data set, or its name."
    ),
]

Column = Annotated[str | None, typer.Option(help="Image column; default: the only one.", rich_help_panel=DATA)]

LabelColumn = Annotated[
    str | None, typer.Option(help="Column of classes; default: the one marked as such.", rich_help_panel=DATA)
]

Size = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="Resize images, the shorter side to this many pixels, and crop their center: images of several sizes "
        "cannot be compared. Equal patches are no longer equal afterwards.",
        rich_help_panel=DATA,
    ),
]

FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links",
        help="Read also what links in SRC lead to elsewhere, and what a single table names beside it.",
        rich_help_panel=DATA,
    ),
]

Convert = Annotated[
    bool,
    typer.Option(
        "--convert",
        help="Read images that would be refused for their mode (1, P, PA, CMYK, YCbCr, LAB), and the first frame of an "
        "animation, in RGB, as torchvision does.",
        rich_help_panel=DATA,
    ),
]

KeepNames = Annotated[
    bool,
    typer.Option(
        "--keep-names",
        help="Store every image under its own name, in the format that its ending says, so that tables of "
        "annotations still fit. JPEG loses some detail of the purified pixels.",
        rich_help_panel=DATA,
    ),
]

ImageFormat = Annotated[
    Literal["png", "jpeg", "webp"] | None,
    typer.Option(
        "--format",
        help="Store every image in this format, with names to match: png or webp without loss, jpeg with. "
        "Default: a folder's images in their own format where that is without loss, and all others as png.",
        rich_help_panel=DATA,
    ),
]

Quality = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="Quality of JPEG, with --format jpeg or --keep-names; default: 95.",
        rich_help_panel=DATA,
    ),
]

Reserved = Annotated[
    str | None,
    typer.Option(
        help="Clean labelled images of the same classes, for searches that can use them; in the forms of SRC.",
        rich_help_panel=DATA,
    ),
]

Decided = Annotated[
    Path | None,
    typer.Option(
        "--decisions",
        help="What a person decided about images in `puregen review`: its file, or a report's folder; default: what "
        "the folder of the report has.",
        rich_help_panel=DATA,
    ),
]

Epochs = Annotated[
    int,
    typer.Option(
        min=1,
        help="Passes over the images of the classifier that is trained to be searched.",
        rich_help_panel=RUNNING,
    ),
]

Seed = Annotated[int, typer.Option(help="Seed of all that is random.", rich_help_panel=RUNNING)]

Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps ...; default: an accelerator if there is one.", rich_help_panel=RUNNING),
]

Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(
        help="Who searches: this process (local), or actors of a Ray cluster (ray), with the same result. Every "
        "machine must find SRC and the report's folder at the same place.",
        rich_help_panel=RUNNING,
    ),
]

Actors = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Actors of engine ray; default: one for each GPU, or on CPUs for each machine.",
        rich_help_panel=RUNNING,
    ),
]

Yes = Annotated[
    bool,
    typer.Option(
        "--yes",
        help="Begin without asking; on a terminal, work of more than an hour is asked about otherwise.",
        rich_help_panel=RUNNING,
    ),
]

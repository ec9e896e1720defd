"""`puregen verify`: check that a purified copy is whole and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puregen_transforms.cli.errors import FAILED, explain_errors
from puregen_transforms.data.local import check_path

SHOWN = 20


def verify(
    copy: Annotated[Path, typer.Argument(metavar="DIR", help="What puregen purify has written: a folder or a file.")],
    source: Annotated[
        str | None, typer.Option(help="What it was made from: look also whether that is still the same.")
    ] = None,
) -> None:
    """Check a purified copy against its manifest; exit with 1 if anything is wrong.

    Every row is in one part, every file has its checksum, every image can be decoded, and no other file is there.
    """
    with explain_errors():
        if source is not None:
            check_path(source)
        from puregen_transforms.distributed.verify import changes_since, problems_of

        problems = list(problems_of(copy))
        if source is not None:
            problems += changes_since(copy, source)
    for problem in problems[:SHOWN]:
        typer.echo(f"Wrong: {problem}", err=True)
    if problems:
        typer.echo(f"{len(problems)} problems in {copy}.", err=True)
        raise typer.Exit(FAILED)
    typer.echo(f"{copy} is complete and unchanged.")

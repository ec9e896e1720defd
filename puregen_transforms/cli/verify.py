"""`puregen verify`: check that a purified copy is whole and unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from puregen_transforms.cli.errors import FAILED, explain_errors
from puregen_transforms.cli.output import say
from puregen_transforms.data.local import check_path

SHOWN = 20


def verify(
    copy: Annotated[Path, typer.Argument(metavar="DIR", help="What puregen purify has written: a folder or a file.")],
    source: Annotated[
        str | None, typer.Option(help="What it was made from: look also whether that is still the same.")
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option(help="Hash of its manifest, as `puregen purify` printed it, kept elsewhere."),
    ] = None,
    follow_links: Annotated[
        bool,
        typer.Option("--follow-links", help="Read the source as the copy was made: with links that lead out of it."),
    ] = False,
) -> None:
    """Check a purified copy against its manifest; exit with 1 if anything is wrong.

    Every row is in one part, every file has its checksum, every image can be decoded, and no other file is there but
    hidden ones that are no images, such as .DS_Store, which are named. Who can change the copy can change its manifest
    to match: only --sha256 finds that out.
    """
    with explain_errors():
        if source is not None:
            check_path(source)
        elif follow_links:
            raise ValueError("Expected --source beside --follow-links: of a copy alone, no link is followed.")
        from puregen_transforms.whole_sets.verify import changes_since, hidden_in, problems_of

        problems = list(problems_of(copy, sha256=sha256))
        if source is not None:
            problems += changes_since(copy, source, follow_links=follow_links)
        hidden = hidden_in(copy)
    for problem in problems[:SHOWN]:
        say(f"Wrong: {problem}", err=True)
    if problems:
        say(f"{len(problems)} problems in {copy}.", err=True)
        raise typer.Exit(FAILED)
    if hidden:
        say(f"Note: {len(hidden)} hidden files were added, such as {hidden[0]}. None is an image, so none is learned.")
    say(f"{copy} is complete and unchanged.")

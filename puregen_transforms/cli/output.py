"""What commands print: plain text, in which names out of data steer no terminal and are no markup."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console

from puregen_transforms._text import shown_lines


def say(text: object, *, err: bool = False) -> None:
    """Print a line to stdout, or to stderr."""
    typer.echo(shown_lines(str(text)), err=err)


class PlainConsole(Console):
    """A console on which a text is a text, whatever brackets and escape sequences are in it."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does."""
        super().print(*(shown_lines(item) if isinstance(item, str) else item for item in objects), **options)

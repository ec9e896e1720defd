"""Ask before work that takes long, where somebody is there to answer."""

from __future__ import annotations

import os
import sys

import typer

from puregen_transforms._progress import duration
from puregen_transforms.cli.errors import FAILED
from puregen_transforms.cli.output import say

ASKED_FROM = 3600.0
"""Seconds of work from which on it is asked whether to begin."""


def ask_before(seconds: float | None, *, yes: bool) -> None:
    """Ask whether to begin, if it takes more than an hour; without a terminal, or with `--yes`, nothing is asked.

    Args:
        seconds: that the work will take; None if nobody knows.
        yes: whether the answer was given on the command line.

    Raises:
        typer.Exit: the answer is no.
    """
    if yes or seconds is None or seconds <= ASKED_FROM or not _somebody_is_there():
        return
    if not typer.confirm(f"This will take about {duration(seconds)}. Begin?", err=True):
        say("Left as it was. The same command asks again; with --yes it begins at once.", err=True)
        raise typer.Exit(FAILED)


def _somebody_is_there() -> bool:
    """Tell whether a question would be seen and could be answered: a launcher or a pipeline would wait for ever."""
    if "WORLD_SIZE" in os.environ or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()  # a job in the background would be stopped
    except (AttributeError, OSError):  # no such groups on this system, or not for this terminal
        return True

"""Show the progress of a command: bars in a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from puregen_transforms._progress import duration

WINDOW = 60.0
"""Seconds of recent work that a rate is of; of slower work, the last step."""

LINE_EVERY = 60.0
"""Seconds between two lines of a log file."""


class Show(Protocol):
    """A callback that shows the progress of a command."""

    def __call__(self, what: str, done: int, total: int | None, *, kept: int = 0, note: str = "") -> None:
        """Show how far it is.

        Args:
            what: is being done, such as "purifying".
            done: so far.
            total: in all, if that is known.
            kept: of those done, how many cost no work in this run.
            note: more to say.
        """


@dataclass
class Rate:
    """The rate of recent work; what went before does not count, nor what cost no work.

    Args:
        clock: seconds.
    """

    clock: Callable[[], float] = time.monotonic
    _reports: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, worked: int) -> None:
        """Report how much has been done up to now."""
        now = self.clock()
        self._reports.append((now, worked))
        while len(self._reports) > 2 and self._reports[1][0] <= now - WINDOW:
            self._reports.popleft()

    @property
    def a_second(self) -> float | None:
        """Work done a second; None before anything was done."""
        if not self._reports:
            return None
        (start, before), (end, after) = self._reports[0], self._reports[-1]
        return (after - before) / (end - start) if after > before and end > start else None

    def left(self, count: float) -> float | None:
        """Estimate the seconds that so many more will take."""
        rate = self.a_second
        return None if rate is None else count / rate

    def __str__(self) -> str:
        rate = self.a_second
        if rate is None:
            return "--/s"
        return f"{rate:.1f}/s" if rate >= 1 else f"{duration(1 / rate)} each"


@contextmanager
def shown_progress(console: Console) -> Iterator[Show]:
    """Show progress by bars if the console is a terminal, else by lines."""
    shown: _Bars | _Lines = _Bars(console) if console.is_terminal else _Lines(console)
    try:
        yield shown
    finally:
        shown.close()


class _Bars:
    """A bar for each thing that is done, with the rate and the time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._tasks: dict[str, tuple[TaskID, Rate]] = {}

    def __call__(self, what: str, done: int, total: int | None, *, kept: int = 0, note: str = "") -> None:
        if what not in self._tasks:
            self._progress.start()
            self._tasks[what] = (self._progress.add_task(what, total=total, rate="", left=""), Rate())
        task, rate = self._tasks[what]
        rate.add(done - kept)
        seconds = None if total is None else rate.left(max(0.0, total - done))
        left = "" if seconds is None or not seconds else f"about {duration(seconds)} left"
        self._progress.update(
            task, completed=done, total=total, rate=str(rate), left=" ".join(filter(None, (left, note)))
        )

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """A line at intervals, and one at the end, of each thing that is done."""

    def __init__(self, console: Console, every: float = LINE_EVERY) -> None:
        self._console = console
        self._every = every
        self._things: dict[str, _Thing] = {}

    def __call__(self, what: str, done: int, total: int | None, *, kept: int = 0, note: str = "") -> None:
        thing = self._things.setdefault(what, _Thing())
        thing.rate.add(done - kept)
        thing.line = _line(what, done, total, thing.rate, note)
        if time.monotonic() - thing.printed >= self._every or done == total:
            self._print(thing)

    def close(self) -> None:
        for thing in self._things.values():
            self._print(thing)

    def _print(self, thing: _Thing) -> None:
        """Print the last line, unless it is there already."""
        if thing.line:
            self._console.print(thing.line, markup=False, highlight=False, soft_wrap=True)
        thing.line, thing.printed = "", time.monotonic()


@dataclass
class _Thing:
    rate: Rate = field(default_factory=Rate)
    printed: float = field(default_factory=time.monotonic)
    line: str = ""


def _line(what: str, done: int, total: int | None, rate: Rate, note: str) -> str:
    seconds = None if total is None else rate.left(max(0.0, total - done))
    parts = [
        f"{what}: {done:,}" if total is None else f"{what}: {done:,} of {total:,}",
        None if rate.a_second is None else str(rate),
        None if not seconds else f"about {duration(seconds)} left",
        note,
    ]
    return ", ".join(filter(None, parts))

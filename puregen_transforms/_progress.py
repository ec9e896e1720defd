"""How long-running work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


@contextmanager
def datasets_bars_hidden() -> Iterator[None]:
    """Hide the bars of `datasets` for a while: of copying a source to its cache, where a bar of ours follows."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def duration(seconds: float) -> str:
    """Say a time in words, as coarse as an estimate is: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"

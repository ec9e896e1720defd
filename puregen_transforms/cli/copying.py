"""What the commands that write a copy share: an end that leaves nothing half written, and how to open the copy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that what was half written is removed."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def how_to_open(destination: Path) -> str:
    """Write the call that opens a copy."""
    if any(character in str(destination) for character in "[]*?"):  # `datasets` takes them for patterns
        return f'puregen_transforms.data.open_source("{destination}")'
    if destination.suffix == ".parquet":
        return f'datasets.load_dataset("parquet", data_files="{destination}")'
    if any((destination / "data").glob("*.parquet")):
        return f'datasets.load_dataset("{destination}")'
    # `datasets` would take some folders of classes for splits.
    return f'puregen_transforms.data.open_source("{destination}")'

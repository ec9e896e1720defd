"""Turn expected failures of a command into one paragraph and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from puregen_transforms.cli.output import say

FAILED = 1
FOUND = 2
"""The command finished, and found what it was told to fail on."""

INCOMPLETE = 3
"""The command finished, but left something out."""


@contextmanager
def explain_errors() -> Iterator[None]:
    """Print what a user can act on to stderr, without a traceback, and exit with `FAILED`.

    Covers `ValueError`, `OSError`, `FloatingPointError`, a package not installed, lack of GPU memory, and what
    `datasets` and `pyarrow` raise about data they cannot read. Anything else is a bug of ours and keeps its traceback.

    Raises:
        typer.Exit: in place of these errors.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        say(f"Error: {_in_words(error)}", err=True)
        raise typer.Exit(FAILED) from error


def _expected_errors() -> tuple[type[BaseException], ...]:
    """Collect the errors above; those of libraries only if the command has imported them, as importing is slow."""
    expected: list[type[BaseException]] = [ValueError, OSError, FloatingPointError, ImportError]
    optional = (("torch", "OutOfMemoryError"), ("datasets.exceptions", "DatasetsError"), ("pyarrow", "ArrowException"))
    for module, name in optional:
        error = getattr(sys.modules.get(module), name, None)
        if error is not None:
            expected.append(error)
    return tuple(expected)


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror}: {error.filename}"
    elif type(error).__name__ == "OutOfMemoryError":
        text = f"{error} Use a smaller --batch-size."
    else:
        text = str(error) or type(error).__name__
        cause = error.__cause__
        # datasets hides the reason in the cause.
        if cause is not None and type(error).__module__.startswith("datasets") and str(cause):
            text += f" ({cause})"
    return " ".join(text.split())

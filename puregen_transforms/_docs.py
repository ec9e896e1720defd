"""Documentation of an option, written once: on the dataclass that holds it."""

from __future__ import annotations

import inspect
import re
from textwrap import TextWrapper


def argument_docs(documented: type) -> dict[str, str]:
    """Read the "Args:" of a docstring: each name with its text on one line; empty where Python dropped docstrings."""
    docs: dict[str, str] = {}
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("\nArgs:\n")
    name = ""
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if start := re.match(r"    (\w+): (.*)", line):
            name, docs[start[1]] = start[1], start[2]
        else:
            docs[name] += f" {line.strip()}"
    return docs


def with_argument_docs(docstring: str, place: str, docs: dict[str, str]) -> str:
    """Put documented arguments in the place of one line of a docstring, wrapped as its other arguments are."""
    wrapper = TextWrapper(width=120, initial_indent=" " * 8, subsequent_indent=" " * 12)
    written = "\n".join(wrapper.fill(f"{name}: {text}") for name, text in docs.items())
    return docstring.replace(f"{' ' * 8}{place}", written)

"""Foreign text, such as names of files, classes and tensors, made harmless where people read it."""

from __future__ import annotations

import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a terminal acts on rather than shows: control, direction, half characters, line ends."""


def shown(text: str) -> str:
    r"""Replace characters that steer a terminal, or turn the direction of text, by escapes such as `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text)


def shown_lines(text: str) -> str:
    """Do as `shown`, but keep the ends of lines."""
    return "\n".join(map(shown, text.split("\n")))


def as_markdown(text: str) -> str:
    """Escape what Markdown would take for HTML, for a link, or for the end of a table's cell."""
    return shown(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("](", "]\\(")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")

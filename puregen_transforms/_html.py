"""Small pieces of HTML for notebooks, in which all text is escaped: names come out of data."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from puregen_transforms._text import shown

_SIDE = 96


def escaped(text: object) -> str:
    """Make a text harmless in HTML, and visible what would turn its direction."""
    return html.escape(shown(str(text)))


def card(title: object, *parts: str) -> str:
    """Put parts, which are HTML, below a title."""
    return f"<div><p><b>{escaped(title)}</b></p>{''.join(parts)}</div>"


def paragraph(text: object) -> str:
    """Write a paragraph."""
    return f"<p>{escaped(text)}</p>"


def listing(lines: Iterable[object]) -> str:
    """Write a list; nothing for no lines."""
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; nothing for no rows."""
    body = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def pictures(images: Iterable[tuple[Any, object]]) -> str:
    """Show PIL images side by side, each with a word below, as PNG inside the HTML."""
    return "".join(
        f'<figure style="display:inline-block;margin:4px;text-align:center"><img alt="" width="{_SIDE}" '
        f'style="image-rendering:pixelated" src="{_source(image)}"><figcaption>{escaped(word)}</figcaption></figure>'
        for image, word in images
    )


def _source(image: Any) -> str:
    small = image if image.mode == "RGBA" else image.convert("RGB")
    small = small.copy()
    small.thumbnail((2 * _SIDE, 2 * _SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

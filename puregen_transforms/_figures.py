"""What all figures share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from puregen_transforms._extras import require_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, PAPER = "#222222", "white"
COLORS = {"clean": "#2a6fdb", "poisoned": "#d1495b"}


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    require_extra("matplotlib", "report")
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    class PlainFigure(Figure):
        """Takes no text for a formula: names of classes and files may have any letters."""

        def tight_layout(self, **options: Any) -> None:
            self._take_texts_as_they_are()
            super().tight_layout(**options)

        def draw(self, renderer: Any) -> None:
            self._take_texts_as_they_are()
            super().draw(renderer)

        def _take_texts_as_they_are(self) -> None:
            for text in self.findobj(Text):
                text.set_parse_math(False)

    # Not pyplot: it would keep global state and look for a display.
    return PlainFigure(figsize=(width, height), facecolor=PAPER)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")

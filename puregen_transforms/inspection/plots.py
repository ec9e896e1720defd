"""Figures of an audit, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from puregen_transforms._figures import COLORS, INK, new_figure
from puregen_transforms.inspection.dynamics import DEFAULT_STEPS, MARKS, Dynamics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TYPICAL, _SUSPECT, _SOFT = COLORS["clean"], COLORS["poisoned"], "#8a8f98"
_BINS = 60
_MOST_CLASSES = 24
_COLUMNS = 4


def energy_histogram(energies: Tensor, carriers: Tensor, *, suspicious: str) -> str:
    """Energies of a set, and where the suspicious images lie.

    Args:
        energies: (N,) finite.
        carriers: (N,) bool.
        suspicious: what the marked images are called.
    """
    figure = new_figure(9.6, 3.1)
    axes = figure.add_subplot()
    bins = torch.linspace(float(energies.min()), float(energies.max()), _BINS + 1).tolist()
    axes.hist(energies.tolist(), bins=bins, color=_TYPICAL, alpha=0.75, label="all images")
    if bool(carriers.any()):
        _mark(axes, energies[carriers], suspicious)
        axes.legend(frameon=False, fontsize=9)
    axes.set_xlabel("energy (left: natural, right: suspicious)", color=INK)
    axes.set_ylabel("images", color=INK)
    return _svg(figure, axes)


def class_histograms(groups: Sequence[tuple[str, Tensor, Tensor]], *, suspicious: str) -> str:
    """Draw the energies of each class, on one scale.

    Args:
        groups: name, (N,) energies and (N,) bool of the suspicious images; most suspicious class first.
        suspicious: what the marked images are called.
    """
    shown = groups[:_MOST_CLASSES]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(9.6, 0.5 + 1.45 * rows)
    every = torch.cat([energies for _, energies, _ in shown])
    low, high = float(every.min()), float(every.max())
    bins = torch.linspace(low, high, _BINS // 2 + 1).tolist()
    panels = []
    for index, (name, energies, carriers) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.hist(energies.tolist(), bins=bins, color=_TYPICAL, alpha=0.75)
        if bool(carriers.any()):
            _mark(axes, energies[carriers], suspicious)
        axes.set_title(name if len(name) <= 28 else f"{name[:27]}…", fontsize=9, loc="left", color=INK)
        axes.set_yticks([])
        axes.set_xlim(low, high)
        axes.tick_params(labelsize=7)
        panels.append(axes)
    return _svg(figure, *panels)


def dynamics_curves(dynamics: Dynamics, *, suspicious: str) -> str:
    """Distance from the start, energy, and what is left of the pattern, against Langevin steps.

    Args:
        dynamics: of the sample.
        suspicious: what the suspicious images are called.
    """
    panels = 3 if dynamics.left else 2
    figure = new_figure(9.6, 3.3)
    distance, energy = (figure.add_subplot(1, panels, index + 1) for index in range(2))
    for name, curves, color in (
        (suspicious, dynamics.suspicious, _SUSPECT),
        ("typical images", dynamics.typical, _TYPICAL),
    ):
        distance.plot(MARKS, curves.distance, color=color, marker="o", markersize=3, label=name)
        energy.plot(MARKS, [levels[2] for levels in curves.energy], color=color, marker="o", markersize=3, label=name)
    for low, high, strength, name in ((0, 4, 0.12, "typical: 5 to 95 %"), (1, 3, 0.22, "typical: middle half")):
        bounds = [[levels[side] for levels in dynamics.typical.energy] for side in (low, high)]
        energy.fill_between(MARKS, bounds[0], bounds[1], color=_TYPICAL, alpha=strength, linewidth=0, label=name)
    distance.set_title("distance from the start (median, 1/255)", fontsize=9.5, loc="left", color=INK)
    energy.set_title("energy (median)", fontsize=9.5, loc="left", color=INK)
    distance.legend(frameon=False, fontsize=8)
    energy.legend(frameon=False, fontsize=7)
    every = [distance, energy]
    if dynamics.left:
        left = figure.add_subplot(1, panels, 3)
        left.plot(MARKS, [100 * share for share in dynamics.left], color=_SUSPECT, marker="o", markersize=3)
        left.set_ylim(0, max(105.0, 105 * max(dynamics.left)))
        left.set_title("of the pattern is left (%, rough)", fontsize=9.5, loc="left", color=INK)
        every.append(left)
    for axes in every:
        axes.axvline(DEFAULT_STEPS, color=_SOFT, linewidth=0.8, linestyle=":")
        axes.set_xlabel("Langevin steps (dotted: the default)", fontsize=8.5, color=INK)
        axes.tick_params(labelsize=8)
    return _svg(figure, *every)


def _mark(axes: Any, energies: Tensor, name: str) -> None:
    """Thin lines at single energies, drawn in the lower part of the panel."""
    top = axes.get_ylim()[1]
    axes.vlines(energies.tolist(), 0, 0.35 * top, color=_SUSPECT, linewidth=1.0, alpha=0.8, label=name)
    axes.set_ylim(0, top)


def _svg(figure: Figure, *panels: Any) -> str:
    from matplotlib import rc_context

    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    # Without a salt, the same figure gets other ids every time.
    with rc_context({"svg.hashsalt": "puregen"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]

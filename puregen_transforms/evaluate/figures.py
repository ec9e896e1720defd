"""Figures of a benchmark's record; each writes one PNG."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from puregen_transforms._figures import COLORS, INK, new_figure, save_figure
from puregen_transforms.data.images import look_at
from puregen_transforms.evaluate.summaries import FALSE_ALARMS, NO_ATTACK, grouped, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS = "PureGen", "EBM", "whole_search", "V&B, split by whole_search"
_MOST_PANELS = 9
_MOST_LINES = 10


def draw_outcomes(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Success against accuracy, a panel for each group of attacks; down and to the right is better.

    Args:
        path: of the PNG.
        cells: records, of one kind of victim.
    """
    defenses = grouped(cells)
    groups = [group for group in dict.fromkeys(g for rows in defenses.values() for g in rows) if group != NO_ATTACK]
    groups = groups[:_MOST_PANELS]
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    height, marks = 4.2 * lines, _marks_of(list(defenses))
    legend = 0.24 * -(-len(marks) // columns) + 0.2
    figure = new_figure(5.2 * columns, height + legend)
    for index, group in enumerate(groups):
        axes = figure.add_subplot(lines, columns, index + 1)
        found = {name: summarize(rows[group]) for name, rows in defenses.items() if group in rows}
        for name, summary in found.items():
            if summary.success is not None:
                axes.plot(100 * summary.accuracy, 100 * summary.success, **marks[name], linestyle="", markersize=7)
        for floor in {s.floor for s in found.values() if s.floor is not None}:
            axes.axhline(100 * floor, color="#8a8f98", linestyle=":", linewidth=1)
        axes.set_ylim(-4, 104)
        axes.margins(x=0.08)
        axes.set_xlabel("accuracy of the victim (%): right is better")
        axes.set_ylabel("poison success (%): down is better")
        axes.set_title(f"{group}; dotted: a victim that never saw poison", fontsize=9.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", ncols=columns, frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, legend / (height + legend), 1, 1))
    save_figure(figure, path)


def draw_energies(path: Path, cells: Sequence[Mapping[str, Any]]) -> bool:
    """Energies of clean and poisoned images before and after purification, a line for each group of attacks.

    Args:
        path: of the PNG; not written if no record has energies.
        cells: records, of one kind of victim.

    Returns:
        Whether there was something to draw.
    """
    shown: dict[str, dict[str, Mapping[str, Any]]] = {}
    for record in cells:
        found = record.get("images_after", {}).get("energies")
        cell = record["cell"]
        if found and cell["defense"]["name"].startswith(_OURS):
            shown.setdefault(cell["attack"]["group"], {}).setdefault(cell["defense"]["name"], found)
    if not shown:
        return False
    columns = 1 + max(len(methods) for methods in shown.values())
    figure = new_figure(3.6 * columns, 2.7 * len(shown))
    for line, (group, methods) in enumerate(shown.items()):
        panels = [("before", "before", next(iter(methods.values())))]
        panels += [(name, "after", found) for name, found in methods.items()]
        for column, (title, when, found) in enumerate(panels):
            axes = figure.add_subplot(len(shown), columns, line * columns + column + 1)
            for kind, color in COLORS.items():
                counts = found["counts"].get(f"{kind} {when}")
                if counts:
                    axes.stairs(counts, found["edges"], fill=True, alpha=0.6, color=color, label=kind)
            axes.set_title(f"{group}: {title}", fontsize=8.5, loc="left", color=INK)
            axes.set_yticks([])
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right", "left"]].set_visible(False)
            if line == 0 and column == 0:
                axes.legend(frameon=False, fontsize=8)
    figure.supxlabel("energy (left: natural, right: suspicious)", fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)
    return True


def draw_distances(path: Path, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw how far purification moves images, by its steps: a line for each group of attacks.

    Args:
        path: of the PNG.
        groups: by group, what `distances` found.
    """
    columns = max(len(kinds) for kinds in groups.values())
    figure = new_figure(5.4 * columns, 3.4 * len(groups))
    styles = {
        "f(x) to x": (COLORS["clean"], "-"),
        "f(p) to x": (COLORS["poisoned"], "-"),
        "f(p) to p": (COLORS["poisoned"], ":"),
    }
    for line, (group, kinds) in enumerate(groups.items()):
        for column, (kind, curves) in enumerate(kinds.items()):
            axes = figure.add_subplot(len(groups), columns, line * columns + column + 1)
            for name, (color, style) in styles.items():
                axes.plot(curves["steps"], curves[name], style, color=color, marker=".", label=name)
            axes.set_xlabel(kind)
            axes.set_ylabel("mean L2 distance")
            axes.set_title(f"{group}: x clean, p poisoned, f the purification", fontsize=9, loc="left", color=INK)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def draw_samples(path: Path, cells: Sequence[Mapping[str, Any]]) -> bool:
    """Clean, poisoned and purified images of the first attack that has some.

    Args:
        path: of the PNG; not written if no record has images.
        cells: records, of one kind of victim.

    Returns:
        Whether there was something to draw.
    """
    strips: dict[str, np.ndarray[Any, Any]] = {}
    first = None
    for record in cells:
        sample, group = record.get("images_after", {}).get("sample"), record["cell"]["attack"]["group"]
        if not sample or group == NO_ATTACK or group != (first or group):
            continue
        first = group
        strips.setdefault("clean", _from_png(sample["clean"]))
        strips.setdefault(f"poisoned: {group}", _from_png(sample["before"]))
        strips.setdefault(record["cell"]["defense"]["name"], _from_png(sample["after"]))
    if not strips:
        return False
    figure = new_figure(9, 1.15 * len(strips))
    for index, (name, strip) in enumerate(strips.items()):
        axes = figure.add_axes((0.3, 1 - (index + 1) / len(strips), 0.69, 0.96 / len(strips)))
        axes.imshow(strip, interpolation="nearest", aspect="equal")
        axes.axis("off")
        axes.text(-0.02, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=8.5, color=INK)
    save_figure(figure, path)
    return True


def draw_courses(path: Path, cells: Sequence[Mapping[str, Any]]) -> bool:
    """Draw how a training goes: a line for each group of attacks, of the defense that tells most.

    From the left: accuracy and success by epoch; where the defense looks at the images, the shares of poisoned and of
    clean ones that it holds for poisoned; and the suspicion of all at some epochs. The first defense that looks is
    drawn, or the first of all where none does.

    Args:
        path: of the PNG; not written if no record tells.
        cells: records, of one kind of victim.

    Returns:
        Whether there was something to draw.
    """
    shown: dict[str, Mapping[str, Any]] = {}
    telling = [record for record in cells if "by_epoch" in record]
    names = [record["cell"]["defense"]["name"] for record in sorted(telling, key=lambda record: "looks" not in record)]
    for record in telling:
        if record["cell"]["defense"]["name"] == names[0]:
            shown.setdefault(record["cell"]["attack"]["group"], record)
    if not shown:
        return False
    lines = list(shown.items())[:_MOST_LINES]
    columns = 4 + max(len(record.get("looks", {}).get("histograms", ())) for _, record in lines)
    figure = new_figure(1.9 * columns, 2.2 * len(lines) + 0.4)
    grid = figure.add_gridspec(len(lines), columns)
    for line, (group, record) in enumerate(lines):
        course, looks = record["by_epoch"], record.get("looks", {})
        epochs = range(1, len(course["accuracy"]) + 1)
        curves = {
            "accuracy": ("clean", epochs, course["accuracy"]),
            "success": ("poisoned", epochs, course.get("success")),
        }
        _curves(figure.add_subplot(grid[line, :2]), f"{names[0]}, {group}", curves)
        if looks:
            held = {
                kind: (kind, looks["epochs"], looks.get(key)) for kind, key in (("clean", "fpr"), ("poisoned", "tpr"))
            }
            _curves(figure.add_subplot(grid[line, 2:4]), "suspicious", held)
        for column, found in enumerate(looks.get("histograms", ())):
            axes = figure.add_subplot(grid[line, 4 + column])
            for kind, color in COLORS.items():
                if total := sum(found[kind]):
                    edges = np.linspace(0, 1, len(found[kind]) + 1)
                    axes.stairs(np.array(found[kind]) / total, edges, fill=True, alpha=0.6, color=color)
            axes.set_title(f"after epoch {found['epoch']}", fontsize=8, loc="left", color=INK)
            axes.set_yticks([])
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel("curves: percent by epoch; histograms: suspicion, of each kind its share", fontsize=8.5)
    figure.tight_layout()
    save_figure(figure, path)
    return True


def draw_mixed(path: Path, cells: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> bool:
    """Draw how images and labels are mixed, an example a line, of the first training that tells.

    Args:
        path: of the PNG; not written if no record tells.
        cells: records, of one kind of victim.
        class_names: of the labels.

    Returns:
        Whether there was something to draw.
    """
    found = next((cell["mixed"] for cell in cells if "mixed" in cell), None)
    if found is None:
        return False
    count = len(found["labels"])
    strips = {
        name: np.split(_from_png(found[name]), count, axis=1)
        for name in ("first", "second", "attention", "region", "mixed")
    }
    figure = new_figure(12, 1.75 * count + 1.3)
    grid = figure.add_gridspec(
        count, 6, width_ratios=[1, 1, 1, 1, 1, 2.6], left=0.01, right=0.985, wspace=0.12, hspace=0.2,
        top=1 - 0.95 / (1.75 * count + 1.3), bottom=0.5 / (1.75 * count + 1.3),
    )  # fmt: skip
    heads = [
        "image",
        "where the network\nlooks: its attention",
        "the region that is\nmixed (rest faded)",
        "partner",
        "mixed image",
    ]
    for line, (labels, weights) in enumerate(zip(found["labels"], found["weights"], strict=True)):
        names = [class_names[label] if label < len(class_names) else str(label) for label in labels]
        inside = strips["region"][line] > 127
        faded = np.where(inside, strips["first"][line], 255 - (255 - strips["first"][line]) // 4)
        pictures = [strips["first"][line], strips["attention"][line][..., 0], faded, strips["second"][line]]
        for column, picture in enumerate([*pictures, strips["mixed"][line]]):
            axes = figure.add_subplot(grid[line, column])
            axes.imshow(picture, interpolation="nearest", cmap="magma", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            if line == 0:
                axes.set_title(heads[column], fontsize=9.5, color=INK)
            if column in (0, 3):
                axes.set_xlabel(names[column > 0], fontsize=9, color=INK, labelpad=2)
        _label_weights(figure.add_subplot(grid[line, 5]), names, weights, headed=line == 0)
    figure.suptitle(
        "AttentionMix: a partner shines through where the network looks; each class counts by its share there",
        fontsize=11, color=INK,
    )  # fmt: skip
    save_figure(figure, path)
    return True


def _label_weights(axes: Axes, names: Sequence[str], weights: Sequence[float], *, headed: bool) -> None:
    """Draw the three weights of a mixed label as a bar of parts."""
    parts = [
        (f"{names[0]}: its own, outside the region", COLORS["clean"], 0.45),
        (f"{names[0]}: its own share of the region", COLORS["clean"], 0.9),
        (f"{names[1]}: the partner's share of the region", COLORS["poisoned"], 0.9),
    ]
    start = 0.0
    for place, ((words, color, depth), weight) in enumerate(zip(parts, weights, strict=True)):
        axes.barh(0.0, weight, left=start, color=color, alpha=depth, height=0.5)
        axes.text(0, -0.62 - 0.42 * place, f"{100 * weight:.0f} %  {words}", fontsize=8.5, color=color, va="center")
        start += weight
    axes.set_xlim(0, 1)
    axes.set_ylim(-1.7, 0.3)
    axes.axis("off")
    if headed:
        axes.set_title("the label of the mixed image: weights of the classes", fontsize=9.5, color=INK)


def _curves(axes: Axes, title: str, curves: Mapping[str, tuple[str, Sequence[int], Sequence[float] | None]]) -> None:
    """Draw shares by epoch, in percent: by label the kind of images, which gives the color, epochs and shares."""
    for label, (kind, epochs, shares) in curves.items():
        if shares is not None:
            axes.plot(epochs, [100 * share for share in shares], color=COLORS[kind], label=label)
    axes.set_ylim(-4, 104)
    axes.set_title(title, fontsize=8.5, loc="left", color=INK)
    axes.legend(frameon=False, fontsize=7.5)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _marks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Choose each defense's color, by who it is of, and a mark of its own."""
    ours, rivals = iter("oD^vP*<>dhpsX8H"), iter("sX<>^vdPhp*Do8H")
    looks: dict[str, dict[str, Any]] = {}
    for name in names:
        if name == "none":
            look = {"color": INK, "marker": "X"}
        elif name.startswith(_OURS):
            look = {"color": COLORS["clean"], "marker": next(ours, "o")}
        else:
            look = {"color": COLORS["poisoned"], "marker": next(rivals, "s")}
        looks[name] = {**look, "label": name}
    return looks


def _from_png(text: str) -> np.ndarray[Any, Any]:
    return np.asarray(look_at(base64.b64decode(text)))


def draw_detectors(path: Path, found: Mapping[str, Mapping[str, tuple[float | None, float | None]]]) -> None:
    """Draw who finds what: attacks as rows, detectors as columns, the share found as the depth of the color.

    Args:
        path: of the PNG.
        found: by group of attacks and detector, the shares of poisoned images found and of images without a trigger
            flagged; None where there are none.
    """
    groups, detectors = list(found), list(dict.fromkeys(name for row in found.values() for name in row))
    figure = new_figure(2.6 + 0.86 * len(detectors), 1.7 + 0.3 * len(groups))
    axes = figure.add_subplot()
    shades = {
        False: np.full((len(groups), len(detectors)), np.nan),
        True: np.full((len(groups), len(detectors)), np.nan),
    }
    for line, group in enumerate(groups):
        for column, name in enumerate(detectors):
            tpr, fpr = found[group].get(name, (None, None))
            if tpr is None and fpr is None:
                continue
            alarm = fpr is not None and fpr > FALSE_ALARMS
            # Without poison there is nothing to find: false alarms alone give the color.
            shades[alarm][line, column] = (1.0 if alarm else 0.0) if tpr is None else tpr
            words = ["–" if tpr is None else f"{100 * tpr:.0f}", "–" if fpr is None else f"{100 * fpr:.1f}"]
            axes.text(column, line, " / ".join(words), ha="center", va="center", fontsize=7.5, color=INK)
    for alarm, colors in ((False, "Greens"), (True, "Oranges")):
        axes.imshow(shades[alarm], cmap=colors, vmin=-0.15 if alarm else 0, vmax=1.9, aspect="auto")
    axes.set_xticks(range(len(detectors)), [name.replace("_", "\n") for name in detectors], fontsize=8)
    axes.set_yticks(range(len(groups)), groups, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(
        "poisoned images found / images without a trigger flagged (%); "
        f"orange: more than {100 * FALSE_ALARMS:g} % of these",
        fontsize=8.5,
    )
    figure.tight_layout()
    save_figure(figure, path)

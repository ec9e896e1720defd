"""Figures; each takes numbers and images, and writes one PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from puregen_transforms._figures import COLORS, INK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from puregen_transforms.attacks.poison import Poison


def draw_repair_grid(
    path: Path,
    *,
    clean: Tensor,
    poisoned: Tensor,
    purified: Tensor,
    trigger: Tensor,
    left: Tensor,
    share_left: float,
    amplify: int = 8,
) -> None:
    """Draw images before the attack, under it and after repair, with the differences made visible.

    Args:
        path: of the PNG.
        clean: (N, 3, H, W) uint8, an image a row.
        poisoned: the same images with the trigger.
        purified: `poisoned` after purification.
        trigger: (3, H, W) what the attacker adds, in units of 1/255.
        left: (3, H, W) what of it remains on average after purification, in units of 1/255.
        share_left: `left` along the trigger's own direction.
        amplify: factor on the differences drawn.
    """
    figure = new_figure(12.5, 1.35 * len(clean) + 2.0)
    grid = figure.add_gridspec(
        len(clean), 7, width_ratios=[1, 1, 1, 1, 1, 0.35, 2.6], wspace=0.06, hspace=0.06, top=0.88, bottom=0.03,
        left=0.02, right=0.98,
    )  # fmt: skip
    attack = poisoned.float() - clean.float()
    change = purified.float() - poisoned.float()
    columns = [
        ("original", _pixels(clean)),
        ("poisoned\n(what you receive)", _pixels(poisoned)),
        (f"the attack alone,\n{amplify}x stronger", _difference(attack, amplify)),
        ("repaired\nby PureGen", _pixels(purified)),
        (f"what PureGen changed,\n{amplify}x stronger", _difference(change, amplify)),
    ]
    for column, (title, images) in enumerate(columns):
        for row, image in enumerate(images):
            axes = _picture(figure, grid[row, column], image)
            if row == 0:
                axes.set_title(title, fontsize=9.5, color=INK)
    half = len(clean) // 2
    for rows, title, image in [
        (slice(0, half), f"the trigger, {amplify}x stronger", trigger),
        (slice(half, None), f"what is left of it after repair, {amplify}x stronger:\n{share_left:.0%}", left),
    ]:
        axes = _picture(figure, grid[rows, 6], _difference(image[None].float(), amplify)[0])
        axes.set_title(title, fontsize=10.5, color=INK)
    figure.suptitle(
        "Every poisoned image carries the same faint trigger. PureGen moves images back towards natural ones.",
        fontsize=12, color=INK, y=0.97,
    )  # fmt: skip
    save_figure(figure, path)


def draw_poison(path: Path, poison: Poison, originals: Tensor, *, shown: int = 8, amplify: int = 8) -> None:
    """Draw some poisoned rows before and after, and the change made visible, with their labels and what they aim at.

    Args:
        path: of the PNG.
        poison: covers are shown, too.
        originals: (n, 3, H, W) uint8, its rows before.
        shown: at most so many poisoned rows, and half as many covers.
        amplify: factor on the changes.
    """
    rows = torch.cat([(~poison.covers).nonzero()[:shown, 0], poison.covers.nonzero()[: shown // 2, 0]])
    before, after = originals[rows], poison.images[rows]
    change = _difference(after.float() - before.float(), amplify)
    columns = len(rows) + (poison.target_images is not None)
    figure = new_figure(1.25 * columns + 1.3, 4.6)
    grid = figure.add_gridspec(
        3, columns, left=1.25 / (1.25 * columns + 1.3), right=0.99, top=0.82, bottom=0.02, wspace=0.06, hspace=0.06
    )
    for line, (title, images) in enumerate(
        [("before", _pixels(before)), ("in the set", _pixels(after)), (f"change,\n{amplify}x stronger", change)]
    ):
        for column, image in enumerate(images):
            axes = _picture(figure, grid[line, column], image)
            if column == 0:
                axes.text(-0.1, 0.5, title, fontsize=9, color=INK, ha="right", va="center", transform=axes.transAxes)
            if line == 0:
                row = int(rows[column])
                label = poison.class_names[int(poison.labels[row])]
                axes.set_title(("cover: " if poison.covers[row] else "") + label, fontsize=8.5, color=INK)
    if poison.target_images is not None and poison.target_labels is not None and poison.target_class is not None:
        axes = _picture(figure, grid[1, -1], _pixels(poison.target_images)[0])
        names = poison.class_names[int(poison.target_labels[0])], poison.class_names[poison.target_class]
        axes.set_title(f"target: {names[0]}\nas {names[1]}", fontsize=8.5, color=INK)
    figure.suptitle(f"{poison.attack}: {len(poison)} of {poison.set_rows} rows, with the labels they get", fontsize=11)
    save_figure(figure, path)


def draw_energy_histogram(path: Path, *, clean: Tensor, poisoned: Tensor, separation: float) -> None:
    """Energies of clean and of poisoned images.

    Args:
        path: of the PNG.
        clean: (N,) energies of clean images.
        poisoned: (N,) energies of poisoned ones.
        separation: AUROC between the two groups, shown in the title.
    """
    figure = new_figure(8, 4.2)
    axes = figure.add_subplot()
    both = torch.cat([clean, poisoned])
    bins = torch.linspace(both.min(), both.max(), 41).tolist()
    for name, values in (("clean", clean), ("poisoned", poisoned)):
        axes.hist(values.tolist(), bins=bins, alpha=0.65, color=COLORS[name], label=f"{name} images")
    axes.set_xlabel("energy (left: natural, right: suspicious)")
    axes.set_ylabel("images")
    axes.set_title(
        f"The energy alone tells poisoned from clean images: AUROC {separation:.3f} (1 is perfect, 0.5 is chance)",
        fontsize=10.5, color=INK,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    save_figure(figure, path)


def draw_tradeoff(path: Path, sets: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Draw what methods cost and what they remove: a panel per image set; down and to the right is better.

    Args:
        path: of the PNG.
        sets: by name: each method's PSNR of clean images (dB) and share of the trigger left.
    """
    figure = new_figure(7 * len(sets), 5.2)
    for index, (name, methods) in enumerate(sets.items()):
        axes = figure.add_subplot(1, len(sets), index + 1)
        finite = {method: point for method, point in methods.items() if math.isfinite(point[0])}
        for method, (quality, left) in finite.items():
            rival = method.startswith("jpeg")
            axes.plot(quality, left, "s" if rival else "o", color=COLORS["poisoned" if rival else "clean"])
            axes.annotate(method, (quality, left), xytext=(5, 4), textcoords="offset points", fontsize=7.5, color=INK)
        rivals = sorted(point for method, point in finite.items() if method.startswith("jpeg"))
        axes.plot(*zip(*rivals, strict=True), color=COLORS["poisoned"], linewidth=0.8, linestyle=":")
        axes.set_xlabel("PSNR of purified clean images (dB): right is better")
        axes.set_ylabel("share of the ε 16 trigger left: down is better")
        axes.set_title(name, fontsize=10.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_figure(figure, path)


def draw_solvers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw what diffusion solvers with few network calls give, beside the whole chain.

    Args:
        path: of the PNG.
        rows: each with its solver, calls, psnr_clean and attacks, as in the record of `benchmarks/purify_quality.py`;
            the row with most calls is the whole chain.
    """
    chain = max(rows, key=lambda row: row["calls"])
    figure = new_figure(12, 4.6)
    measures: list[tuple[str, float, Callable[[Mapping[str, Any]], float]]] = [
        ("PSNR of purified clean images (dB)", 0.3, lambda row: row["psnr_clean"]),
        ("share of the ε 16 trigger left", 0.05, lambda row: row["attacks"]["16"]["survival"]),
    ]
    for index, (label, margin, measure) in enumerate(measures):
        axes = figure.add_subplot(1, 2, index + 1)
        goal = measure(chain)
        axes.axhspan(
            goal - margin, goal + margin, color="#eeeeee", label=f"whole chain of {chain['calls']}, ± {margin}"
        )
        axes.axhline(goal, color="#999999", linewidth=0.8)
        for solver in dict.fromkeys(row["solver"] for row in rows):
            line = sorted((row["calls"], measure(row)) for row in rows if row["solver"] == solver)
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, label=solver)
        axes.set_xscale("log")
        calls = sorted({row["calls"] for row in rows})
        axes.set_xticks(calls, [str(count) for count in calls])
        axes.minorticks_off()
        axes.set_xlabel("network calls")
        axes.set_title(label, fontsize=10.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8.5)
    figure.tight_layout()
    save_figure(figure, path)


def draw_victims(path: Path, record: Mapping[str, Any]) -> None:
    """Accuracy against poison success of classifiers trained on purified data; up and to the left is better.

    Args:
        path: of the PNG.
        record: of `benchmarks/dynamics_tradeoff.py`.
    """
    figure = new_figure(12, 5.2)
    for index, (budget, title) in enumerate({"16": "trigger as in training", "32": "trigger doubled"}.items()):
        axes = figure.add_subplot(1, 2, index + 1)
        rows = {"no poison": record["unpoisoned"], **record["methods"]}
        for name, row in rows.items():
            success, accuracy = (sum(v) / len(v) for v in (row["success"][budget], row["accuracy"]))
            rival = name.startswith("jpeg") or name.startswith("no ")
            color = COLORS["poisoned" if rival else "clean"]
            axes.plot(row["success"][budget], row["accuracy"], ".", color=color, alpha=0.4)
            axes.plot(success, accuracy, "s" if rival else "o", color=color)
            axes.annotate(name, (success, accuracy), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
        axes.set_xlabel("poison success: share of other classes called the target (left is better)")
        axes.set_ylabel("accuracy on clean test images (up is better)")
        axes.set_title(title, fontsize=10.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_figure(figure, path)


def draw_speed(path: Path, record: Mapping[str, Any]) -> None:
    """Arithmetic done a second by batch size, under the rates of a matrix product: a roofline of measured roofs.

    Args:
        path: of the PNG.
        record: of `benchmarks/purify_speed.py`.
    """
    names = list(dict.fromkeys(_speed_name(row) for row in record["rows"]))
    figure = new_figure(4.2 * len(names), 4.6)
    roofs = record["matrix_product_operations_per_second"]
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        for (dtype, rate), style in zip(
            [(dtype, rate) for dtype, rate in roofs.items() if "," not in dtype], ("--", ":"), strict=False
        ):
            axes.axhline(rate / 1e12, color="#999999", linestyle=style, label=f"matrix product, {dtype}")
        rows = [row for row in record["rows"] if _speed_name(row) == name]
        groups = dict.fromkeys((row["path"], row["dtype"], row.get("threads")) for row in rows)
        for path_name, dtype, threads in groups:
            own = [
                row for row in rows if (row["path"], row["dtype"], row.get("threads")) == (path_name, dtype, threads)
            ]
            label = ", ".join([path_name, dtype, *([f"{threads} thread(s)"] if threads else [])])
            color = {"reference": COLORS["poisoned"]}.get(path_name)
            batches, rates = [row["batch"] for row in own], [row["operations_per_second"] / 1e12 for row in own]
            (line,) = axes.plot(batches, rates, marker="o", markersize=4, color=color, label=label)
            for row, rate in zip(own, rates, strict=True):
                if row.get("default") or len(own) == 1:
                    text = f"{row['images_per_second']:.3g} images/s"
                    offset = (0, -12 if row.get("default") else 7)
                    axes.annotate(
                        text, (row["batch"], rate), offset, textcoords="offset points",
                        ha="center", fontsize=7, color=line.get_color(),
                    )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylim(
            min(row["operations_per_second"] for row in record["rows"]) / 2e12, max(roofs.values()) * 1.6 / 1e12
        )
        axes.set_xlabel("images in a batch")
        axes.set_ylabel("10¹² operations a second")
        axes.set_title(name, fontsize=10.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="lower right")
    figure.tight_layout()
    save_figure(figure, path)


def _speed_name(row: Mapping[str, Any]) -> str:
    return f"EBM, nf {row['nf']}" if row["kind"] == "ebm" else "DDPM"


_CURVES: dict[str, dict[str, Callable[[Mapping[str, float]], float]]] = {
    "ebm": {
        "energy of chains minus energy of data (in units of T)": lambda row: (
            row["negative_energy"] - row["positive_energy"]
        ),
        "gradient norm": lambda row: row["gradient_norm"],
        "move of a chain in one update (rms, range is 2 wide)": lambda row: row["chain_distance"],
    },
    "ddpm": {
        "error of the predicted noise": lambda row: row["loss"],
        "gradient norm": lambda row: row["gradient_norm"],
    },
}


def _kind_of(log: Sequence[Mapping[str, float]]) -> str:
    return "ddpm" if "loss" in log[0] else "ebm"


def draw_training_curves(path: Path, log: Sequence[Mapping[str, float]]) -> None:
    """Draw what `puregen train` logged of a network, smoothed over 100 updates."""
    updates = [row["update"] for row in log]
    curves = {title: [measure(row) for row in log] for title, measure in _CURVES[_kind_of(log)].items()}
    figure = new_figure(9, 0.2 + 2.1 * len(curves))
    for index, (title, values) in enumerate(curves.items()):
        axes = figure.add_subplot(len(curves), 1, index + 1)
        axes.plot(updates, values, color="#cccccc", linewidth=0.4)
        window = min(100, len(values))
        smooth = torch.tensor(values).unfold(0, window, 1).mean(1).tolist()
        axes.plot(updates[window - 1 :], smooth, color=COLORS["clean"], linewidth=1.5)
        axes.set_ylim(*torch.tensor(values).quantile(torch.tensor([0.005, 0.995])).tolist())
        axes.set_title(title, fontsize=9.5, loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("update")
    figure.tight_layout()
    save_figure(figure, path)


def _picture(figure: Figure, place: Any, image: Tensor) -> Any:
    axes = figure.add_subplot(place)
    axes.imshow(image.numpy(), interpolation="nearest")
    axes.axis("off")
    return axes


def _pixels(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _difference(change: Tensor, amplify: int) -> Tensor:
    """Signed changes around mid-gray."""
    return _pixels((change * amplify + 128).round().clamp(0, 255).to(torch.uint8))

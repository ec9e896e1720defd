"""Run a protocol, from images to a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from puregen_transforms.evaluate.bench import Bench, run_cells
from puregen_transforms.evaluate.cells import Cell
from puregen_transforms.evaluate.distances import distances
from puregen_transforms.evaluate.protocols import find_protocol, find_scale
from puregen_transforms.evaluate.records import describe_machine
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_DDPM, DEFAULT_EBM

_MEASURED = 64
"""Images whose way under purification is followed."""


def run_benchmark(
    name: str,
    preset: str,
    bench: Bench,
    *,
    jobs: int = 1,
    defenses: Sequence[str] | None = None,
    kept: bool = False,
    command: str,
) -> dict[str, Any]:
    """Compute every cell of a protocol that is not kept, and collect the record.

    Args:
        name: of the protocol; see `PROTOCOLS`.
        preset: "smoke", "cpu" or "paper".
        bench: images, store and device.
        jobs: processes that share the cores.
        defenses: rows of the table, by name; None is all but the protocol's extras.
        kept: leave out the cells that are not kept yet, and compute none: the record of a run that ended early.
        command: that reproduces the record.

    Raises:
        ValueError: an unknown protocol, preset or defense, or nothing kept.
    """
    protocol, scale = find_protocol(name), find_scale(preset)
    cells = protocol.cells(scale, bench, defenses)
    if kept and not (cells := [cell for cell in cells if bench.is_kept(cell)]):
        raise ValueError("Expected a cell that is kept, but there is none. Run the benchmark first.")
    started, found = time.time(), {}
    for cell, record in run_cells(bench, cells, jobs=jobs):
        found[cells.index(cell)] = record
        bench.say(f"{len(found)}/{len(cells)} in {time.time() - started:.0f} s: {in_words(record)}")
    return {
        "name": name,
        "title": protocol.title,
        "command": command,
        "preset": preset,
        **describe_machine(),
        "weights_sha256": {"ebm": CATALOGUE[DEFAULT_EBM].sha256, "ddpm": CATALOGUE[DEFAULT_DDPM].sha256},
        "images": bench.sets.about,
        "class_names": list(bench.sets.train.class_names),
        "jpeg_quality": bench.sets.train.jpeg_quality,
        "cells": _slim([found[index] for index in range(len(cells))]),
        "distances": _distances(bench, cells) if preset != "smoke" else {},
    }


def in_words(record: Mapping[str, Any]) -> str:
    """Describe a cell in one line."""
    cell = record["cell"]
    success = f", success {record['success']:.1%}" if "success" in record else ""
    target = cell["attack"]["settings"].get("target_class", "")
    return (
        f"{cell['attack']['name']} {cell['attack']['group']} {target} | {cell['defense']['name']} | "
        f"accuracy {record['accuracy']:.1%}{success} | {record['seconds']['all']:.0f} s"
    )


def _slim(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep sample images and energies in the cells of the first attack of each group alone, mixed ones in one cell."""
    seen: set[tuple[str, str, str]] = set()
    kept: list[dict[str, Any]] = []
    for cell in cells:
        if "mixed" in cell and any("mixed" in one for one in kept):
            cell = {key: value for key, value in cell.items() if key != "mixed"}
        place = (cell["cell"]["defense"]["name"], cell["cell"]["attack"]["group"], str(cell["cell"]["victim"]))
        if place in seen and "images_after" in cell:
            figures = {k: v for k, v in cell["images_after"].items() if k not in ("sample", "energies")}
            cell = {**cell, "images_after": figures}
        seen.add(place)
        kept.append(cell)
    return kept


def _distances(bench: Bench, cells: Sequence[Cell]) -> dict[str, Any]:
    """Measure the first attack of each group whose change of pixels is bounded, if images are purified at all."""
    found: dict[str, Any] = {}
    if all(cell.defense.purify_others is None and cell.defense.purify_flagged is None for cell in cells):
        return found
    for cell in cells:
        group = cell.attack.group
        if group in found or cell.victim.scenario != "scratch":
            continue
        poison = bench.poison(cell)
        if poison is None or poison.budget is None:
            continue
        rows = poison.ids[~poison.covers][:_MEASURED]
        places = torch.isin(poison.ids, rows)
        measure = partial(distances, bench.sets.train.images[rows], poison.images[places], rows, device=bench.device)
        found[group] = bench.store.record("distances", [poison.digest, rows.tolist()], measure)
    return found

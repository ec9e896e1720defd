"""A report of benchmarks, drawn from their records alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from puregen_transforms._extras import has_extra
from puregen_transforms._files import write_atomically
from puregen_transforms.evaluate.detection_tables import Measured
from puregen_transforms.evaluate.summaries import Table, by_victim
from puregen_transforms.evaluate.tables import DETECTION, markdown, remarks, tables

PAGE, TEXT = "report.html", "report.md"

_TEMPLATE = Path(__file__).with_name("report.html")


@dataclass(frozen=True)
class Section:
    """One benchmark.

    Args:
        title: of the section.
        tables: of what was measured.
        remarks: command and differences of set-up.
        figures: file names in the report's folder, with what they show.
    """

    title: str
    tables: Sequence[Table]
    remarks: str
    figures: Mapping[str, str] = field(default_factory=dict)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a benchmark.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected the JSON record of a benchmark, but there is no file {path}.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected the JSON record of a benchmark in {path}, but got: {error}.") from error
    if not isinstance(record, dict) or not {"name", "title", "command", "cells", "images", "preset"} <= set(record):
        raise ValueError(
            f"Expected a record that `puregen evaluate` or a benchmark of attacks and defenses wrote, but {path} has "
            "none of its `cells`."
        )
    return record


def write_report(records: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write `report.html`, `report.md` and the figures, which need matplotlib.

    Args:
        records: of benchmarks.
        folder: made if need be; files of an earlier report are replaced.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections, texts = [], []
    for record in records:
        figures = draw_figures(record, folder) if has_extra("matplotlib") else {}
        sections.append(Section(record["title"], tables(record), remarks(record), figures))
        pictures = "".join(f"\n![{words}]({name})\n" for name, words in figures.items())
        texts.append(f"## {record['title']}\n\n{markdown(record)}{pictures}")
    write_atomically(folder / TEXT, "\n".join(["# Attacks and defenses, measured\n", *texts]).encode())
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(sections=sections)
    write_atomically(folder / PAGE, page.encode())
    return folder / PAGE


def draw_figures(record: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw the figures that a record allows: file names, with what they show."""
    from puregen_transforms.evaluate import figures

    drawn: dict[str, str] = {}
    if record["name"] in DETECTION:
        name = f"{record['name']}-found.png"
        figures.draw_detectors(folder / name, Measured.of(record["cells"]).means())
        return {name: "Who finds what"}
    for index, (victim, cells) in enumerate(by_victim(record).items()):
        start = record["name"] + (f"-{index + 1}" if index else "")
        if any("success" in cell for cell in cells):
            figures.draw_outcomes(folder / f"{start}-outcomes.png", cells)
            drawn[f"{start}-outcomes.png"] = f"Success against accuracy ({victim})"
        if figures.draw_energies(folder / f"{start}-energies.png", cells):
            drawn[f"{start}-energies.png"] = "Energies before and after purification"
        if figures.draw_samples(folder / f"{start}-samples.png", cells):
            drawn[f"{start}-samples.png"] = "Images before and after"
        if figures.draw_courses(folder / f"{start}-courses.png", cells):
            drawn[f"{start}-courses.png"] = "How a training defense's training goes, by epoch"
    if record.get("distances"):
        figures.draw_distances(folder / f"{record['name']}-distances.png", record["distances"])
        drawn[f"{record['name']}-distances.png"] = "How far purification moves images, by its steps"
    return drawn

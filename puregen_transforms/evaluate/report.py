"""A report of benchmarks, drawn from their records alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2

from puregen_transforms._extras import has_extra
from puregen_transforms._files import below, is_regular, read_json, write_atomically
from puregen_transforms._text import as_markdown, shown
from puregen_transforms.evaluate.detection_tables import Measured
from puregen_transforms.evaluate.summaries import Table, by_victim
from puregen_transforms.evaluate.tables import DETECTION, markdown, remarks, tables

PAGE, TEXT = "report.html", "report.md"

_TEXTS = ("title", "command", "preset", "machine", "images")

_NAME = re.compile(r"\w[\w.-]*")

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
        ValueError: something else, or a name that files cannot have.
    """
    if not is_regular(path):
        raise FileNotFoundError(f"Expected the JSON record of a benchmark, but there is no file {path}.")
    try:
        record = read_json(path)
    except ValueError as error:
        raise ValueError(f"Expected the JSON record of a benchmark in {path}, but got: {error}") from error
    if not isinstance(record, dict) or not {"name", "title", "command", "cells", "images", "preset"} <= set(record):
        raise ValueError(
            f"Expected a record that `puregen evaluate` or a benchmark of attacks and defenses wrote, but {path} has "
            "none of its `cells`."
        )
    if wrong := [name for name in _TEXTS if not isinstance(record.get(name, ""), str)]:
        raise ValueError(f"Expected texts in {path}, but {', '.join(wrong)} are none.")
    if not isinstance(record["name"], str) or not _NAME.fullmatch(record["name"]):
        raise ValueError(f"Expected a name for files, but {path} has {shown(repr(record['name']))[:80]}.")
    return record


def write_report(records: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write `report.html`, `report.md` and the figures, which need matplotlib.

    Args:
        records: of benchmarks.
        folder: made if need be; files of an earlier report are replaced.

    Returns:
        The page.

    Raises:
        ValueError: a record of another form.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections, texts = [], []
    for record in records:
        try:
            section = Section(record["title"], tables(record), remarks(record))
            text = markdown(record)
            figures = draw_figures(record, folder) if has_extra("matplotlib") else {}
        except OSError:
            raise
        except Exception as error:  # a record of another form can fail in any of its many figures
            raise ValueError(
                f"Expected the record of a benchmark, but {shown(repr(record['title']))[:80]} is of another form: "
                f"{error!r}."
            ) from error
        sections.append(replace(section, figures=figures))
        pictures = "".join(f"\n![{as_markdown(words)}]({name})\n" for name, words in figures.items())
        texts.append(f"## {as_markdown(record['title'])}\n\n{text}{pictures}")
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
        figures.draw_detectors(below(folder, name), Measured.of(record["cells"]).means())
        return {name: "Who finds what"}
    for index, (victim, cells) in enumerate(by_victim(record).items()):
        start = record["name"] + (f"-{index + 1}" if index else "")
        if any("success" in cell for cell in cells):
            figures.draw_outcomes(below(folder, f"{start}-outcomes.png"), cells)
            drawn[f"{start}-outcomes.png"] = f"Success against accuracy ({victim})"
        if figures.draw_energies(below(folder, f"{start}-energies.png"), cells):
            drawn[f"{start}-energies.png"] = "Energies before and after purification"
        if figures.draw_samples(below(folder, f"{start}-samples.png"), cells):
            drawn[f"{start}-samples.png"] = "Images before and after"
        if figures.draw_courses(below(folder, f"{start}-courses.png"), cells):
            drawn[f"{start}-courses.png"] = "How a training defense's training goes, by epoch"
        if figures.draw_mixed(below(folder, f"{start}-mixed.png"), cells, record.get("class_names", ())):
            drawn[f"{start}-mixed.png"] = "How AttentionMix mixes images and their labels"
    if record.get("distances"):
        figures.draw_distances(below(folder, f"{record['name']}-distances.png"), record["distances"])
        drawn[f"{record['name']}-distances.png"] = "How far purification moves images, by its steps"
    return drawn

"""Tables and figure of the protocol `detection`, and what it measures."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from puregen_transforms.data.demo import CLASSES
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.detection_tables import Measured
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.report import draw_figures
from puregen_transforms.evaluate.sets import Sets
from puregen_transforms.evaluate.store import Store
from puregen_transforms.evaluate.tables import markdown, tables
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM


def record_of(group, detector=None, *, kept=True, seed=0, found=None, accuracy=0.7, success=None):
    name = "none" if detector is None else detector + ("" if kept else ", found left out")
    detect = [] if detector is None else [{"name": detector, "settings": {}}]
    record = {
        "cell": {
            "attack": {"name": "badnets", "group": group, "settings": {}},
            "defense": {"name": name, "detect": detect, "keep_flagged": kept and detector is not None},
            "victim": {"classifier": "small", "epochs": 12, "scenario": "scratch"},
            "seed": seed,
        },
        "accuracy": accuracy,
        "seconds": {"train": 100.0, "search": 50.0 + 100 * seed, "all": 1.0},
    }
    if found is not None:
        record["detection"] = dict(zip(("tpr", "fpr", "auroc", "found_at"), found, strict=False))
    if success is not None:
        record |= {"success": success, "success_never_poisoned": 0.02}
        record["poison"] = {"digest": group, "poisoned_rows": 5, "cover_rows": 2, "set_rows": 100}
    return record


@pytest.fixture
def record():
    clean = record_of("no attack", "flare", found=())
    clean["detection"] = {"fpr": 0.25}
    reading = {"network_read": True, "reserved_images": 2000}
    cells = [
        record_of("no attack"),
        record_of("badnets", success=0.9),
        clean | reading,
        record_of("badnets", "flare", found=(0.9, 0.004, 0.99, 0.95), success=0.9) | reading,
        record_of("badnets", "flare", seed=1, found=(1.0, 0.002, 0.97, 0.85), success=0.9) | reading,
        record_of("wanet", "flare", found=(0.1, 0.0, 0.5, 0.1), success=0.6) | reading,
        record_of("badnets", "strip", found=(0.9, 0.3, 0.6, 0.0), success=0.9),
        record_of("badnets", "flare", kept=False, accuracy=0.71, success=0.03, found=(0.9, 0.004, 0.99, 0.95)),
    ]
    return {
        "name": "detection",
        "title": "Detectors",
        "command": "python benchmarks/detection.py --preset cpu",
        "preset": "cpu",
        "images": "cifar10-jpeg-train.parquet",
        "class_names": list(CLASSES),
        "jpeg_quality": 75,
        "weights_sha256": {"ebm": CATALOGUE[DEFAULT_EBM].sha256, "ddpm": "d"},
        "machine": "2 cores",
        "cells": cells,
    }


def rows_of(table):
    return {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}


def test_a_detector_is_judged_by_what_it_finds_flags_and_costs(record):
    overview, found, ranking, outcomes, published = tables(record)
    flare, strip = rows_of(overview)["flare"], rows_of(overview)["strip"]
    assert (flare["needs"], flare["cost"]) == ("a victim, 2,000 clean images", "1 + 0.75")
    assert (strip["needs"], strip["cost"]) == ("nothing", "0.50")
    assert (flare["attacks found"], strip["attacks found"]) == ("1 of 2", "0 of 1"), "false alarms count"
    assert (flare["flagged without poison"], strip["flagged without poison"]) == ("25.0", "–")
    assert (flare["sets judged right"], strip["sets judged right"]) == ("2 of 3", "1 of 1"), "an alarm without poison"
    assert rows_of(found)["badnets"]["flare"] == "95.0 (90.0–100.0) / 0.3 (0.2–0.4)"
    assert rows_of(found)["no attack"]["flare"] == "– / 25.0"
    assert rows_of(ranking)["badnets"]["flare"] == "98.0 (97.0–99.0) / 90.0 (85.0–95.0)"
    assert rows_of(outcomes)["badnets"] == {
        "attack": "badnets", "never poisoned": "2.0", "none": "90.0 / 70.0", "flare": "3.0 / 71.0"
    }  # fmt: skip
    assert ["FLARE's paper", "badnets", "flare", "100 / 0", "95.0 (90.0–100.0) / 0.3 (0.2–0.4)"] in published.rows
    assert len(tables({**record, "class_names": ["a", "b"]})) == 4, "no published figures beside other classes"
    assert "**Published" in markdown(record)


def test_the_figure_shows_means_over_victims(record, tmp_path):
    means = Measured.of(record["cells"]).means()
    assert means["badnets"]["flare"] == (pytest.approx(0.95), pytest.approx(0.003))
    assert means["no attack"]["flare"] == (None, 0.25)
    (name,) = draw_figures(record, tmp_path)
    assert (tmp_path / name).stat().st_size > 5000


def test_the_protocol_has_every_detector_alone_and_before_training(tmp_path):
    images = torch.zeros(20, 3, 8, 8, dtype=torch.uint8)
    ten = ImageSet(images, torch.arange(20) % 10, CLASSES)
    bench = Bench(Sets(ten, ten, "zeros", public=ten, reserved=ten), Store(tmp_path))
    cells = PROTOCOLS["detection"].cells(SCALES["cpu"], bench)
    alone = Counter(
        (cell.defense.name, cell.attack.group) for cell in cells if cell.defense.detect and cell.defense.keep_flagged
    )
    assert alone["shared_patterns", "badnets"] == 1, "no victim decides what it finds"
    assert alone["scan", "badnets"] == alone["scan", "no attack"] == alone["confusion_training", "tact"] == 2
    assert alone["confusion_training", "wanet"] == 1
    assert ("confusion_training", "sig") not in alone, "two cores have no time for it"
    left = {(cell.defense.name, cell.attack.group) for cell in cells if not cell.defense.keep_flagged}
    assert {("scan, found left out", "gcb (labels alone)"), ("none", "label noise")} <= left
    assert all(cells.count(cell) == 1 for cell in cells)
    two = replace(bench.sets, train=ImageSet(images, torch.arange(20) % 2, ("a", "b")))
    names = {cell.defense.name for cell in PROTOCOLS["detection"].cells(SCALES["smoke"], replace(bench, sets=two))}
    assert "strip" in names
    assert "scan" not in names, "it compares three classes or more"

"""The protocol `training_defenses`: which cells it has, its tables, and its figures."""

import base64

import numpy as np
import pytest
import torch

from puregen_transforms.data.demo import CLASSES
from puregen_transforms.data.images import look_at
from puregen_transforms.defenses.registry import build_training_defense
from puregen_transforms.defenses.training_defense import Look
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.benchmark import run_benchmark
from puregen_transforms.evaluate.figures import _marks_of
from puregen_transforms.evaluate.looks import describe_looks
from puregen_transforms.evaluate.mixed import describe_mixing
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.report import draw_figures
from puregen_transforms.evaluate.store import Store
from puregen_transforms.evaluate.tables import markdown, tables
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM
from puregen_transforms.transforms.attention_mix import AttentionMix

DIRTY = ("badnets", "blended", "wanet", "input_aware")


@pytest.fixture
def cells(ten_classes, tmp_path, request):
    return PROTOCOLS["training_defenses"].cells(SCALES[request.param], Bench(ten_classes, Store(tmp_path)))


@pytest.mark.parametrize("cells", ["cpu", "paper"], indirect=True)
def test_whole_defenses_meet_all_attacks_and_parts_meet_two(cells):
    met = {}
    for cell in cells:
        met.setdefault(cell.defense.name, []).append(cell.attack.group)
    everything = met.pop("none")
    assert everything == [
        "no attack",
        *DIRTY,
        "sig",
        "clean_label",
        "narcissus, ε 16",
        "flip (labels alone)",
    ]
    whole = [name for name, groups in met.items() if groups == everything]
    assert whole == [
        "whole_search, found left out",
        "V&B, split by whole_search",
        "V&B, split by whole_search, flagged learned whatever their class",
        "V&B",
        "ABL",
        "V&B + PureGen",
    ], "what tells most comes first"
    assert [cell.defense.name for cell in cells[:5]] == ["none", *whole[:3], "none"]
    assert {tuple(met[name]) for name in set(met) - set(whole)} == {("no attack", "badnets", "blended")}
    assert {cell.attack.settings["rate"] for cell in cells if cell.attack.name in DIRTY} == {0.1}


@pytest.mark.parametrize("cells", ["smoke", "cpu", "paper"], indirect=True)
def test_all_variants_of_a_defense_train_alike_and_are_given_no_clean_images(cells, ten_classes):
    variants = [
        cell.defense for cell in cells if cell.defense.train and cell.defense.train.name == "victim_beneficiary"
    ]
    built = [build_training_defense(one.train.name, **one.train.settings) for one in variants]
    alike = {}
    for one, defense in zip(built, variants, strict=True):
        kind = "Victim" if not defense.detect else "as published" if "as published" in defense.name else "detector"
        lengths = (one.epochs, one.clean_epochs, one.weight_rise, one.warmup_steps, one.batch)
        alike.setdefault(kind, set()).add((lengths, one.own_recipe))
    assert {kind: len(found) for kind, found in alike.items()} == {"Victim": 1, "as published": 1, "detector": 1}
    assert alike["as published"] == alike["Victim"] != alike["detector"]
    assert {one.suspicious for one in built} == {"suppress", "relabel", "correct", "drop"}
    assert PROTOCOLS["training_defenses"].needs == {"public"}


def test_defenses_that_lie_close_together_get_a_second_victim(ten_classes, tmp_path):
    bench, scale = Bench(ten_classes, Store(tmp_path)), SCALES["smoke"]
    cells = PROTOCOLS["training_defenses"].cells(scale, bench)
    success = {"V&B": 0.5, "ABL": 0.54, "V&B, split by whole_search": 0.1, "V&B + PureGen": 0.16}
    for cell in cells:
        found = {"accuracy": 0.5, "success": success.get(cell.defense.name, 0.9)}
        bench.store.record("cells", bench.key(cell), lambda found=found: found)
    again = [cell for cell in PROTOCOLS["training_defenses"].cells(scale, bench) if cell not in cells]
    assert {cell.seed for cell in again} == {1}
    assert [(cell.attack.group, cell.defense.name) for cell in again] == [
        ("no attack", "V&B"),
        ("no attack", "ABL"),
        ("badnets", "V&B"),
        ("badnets", "ABL"),
    ]


def test_what_is_kept_is_written_down_without_computing_the_rest(ten_classes, tmp_path):
    bench = Bench(ten_classes, Store(tmp_path))
    with pytest.raises(ValueError, match="there is none. Run the benchmark first"):
        run_benchmark("training_defenses", "smoke", bench, kept=True, command="")
    cells = PROTOCOLS["training_defenses"].cells(SCALES["smoke"], bench)[:2]
    for cell in cells:
        bench.store.record("cells", bench.key(cell), lambda: {"accuracy": 0.5, "seconds": {"all": 1.0}})
    record = run_benchmark("training_defenses", "smoke", bench, kept=True, command="")
    assert [one["cell"] for one in record["cells"]] == [cell.to_dict() for cell in cells]


def record_of(defense, group, accuracy, success=None, *, found=None, settings=None, train="victim_beneficiary", **more):
    parts = {"name": defense, "detect": [], "train": None}
    if defense != "none":
        parts["train"] = {"name": train, "settings": settings or {}}
    victim = {"classifier": "small", "epochs": 12, "scenario": "scratch"}
    record = {
        "cell": {"attack": {"group": group, "settings": {}}, "defense": parts, "victim": victim, "seed": 0},
        "accuracy": accuracy,
        "seconds": {"train": 60.0},
    }
    if success is not None:
        record |= {"success": success, "success_never_poisoned": 0.02}
        record["poison"] = {"digest": group, "poisoned_rows": 5, "set_rows": 100}
    if found is not None:
        record["detection"] = dict(zip(("fpr", "tpr"), found, strict=False))
    return record | more


@pytest.fixture
def record():
    slow, searched = {"train": 600.0}, {"train": 540.0, "search": 30.0}
    cells = [
        record_of("none", "no attack", 0.75),
        record_of("none", "badnets", 0.74, 1.0),
        record_of("none", "sig", 0.73, 0.98, seconds={"train": 6000.0}),
        record_of("V&B", "no attack", 0.7, found=(0.2,), seconds=slow),
        record_of("V&B", "badnets", 0.69, 0.1, found=(0.2, 0.9), seconds=slow),
        record_of("V&B", "sig", 0.68, 0.5, found=(0.3, 0.4), seconds=slow),
        record_of("split", "no attack", 0.74, seconds=searched, network_read=True, found=(0.0,)),
        record_of("split", "badnets", 0.73, 0.01, seconds=searched, network_read=True, found=(0.0, 1.0)),
        record_of("split", "sig", 0.72, 0.02, seconds=searched, network_read=True, found=(0.0, 1.0)),
        record_of("ABL", "no attack", 0.6, train="abl"),
        record_of("ABL", "badnets", 0.5, 0.0, train="abl"),
        record_of("ABL", "sig", 0.55, 0.4, train="abl"),
        record_of("filter", "no attack", 0.71, settings={"suspicious": "drop"}, found=(0.2,)),
        record_of("filter", "badnets", 0.72, 0.3, settings={"suspicious": "drop"}, found=(0.25, 0.8)),
    ]
    for cell in cells:
        if cell["cell"]["defense"]["name"] == "split":
            cell["cell"]["defense"]["detect"] = [{"name": "whole_search", "settings": {}}]
    return {
        "name": "training_defenses",
        "title": "Training defenses",
        "command": "python benchmarks/training_defenses.py --preset cpu",
        "preset": "cpu",
        "images": "cifar10-jpeg-train.parquet",
        "class_names": list(CLASSES),
        "jpeg_quality": 75,
        "weights_sha256": {"ebm": CATALOGUE[DEFAULT_EBM].sha256, "ddpm": "d"},
        "machine": "2 cores",
        "cells": cells,
    }


def test_the_tables(record):
    outcomes, found, parts, found_by_parts = tables(record)
    assert outcomes.head[2:] == ["no attack", "badnets", "sig"]
    assert outcomes.rows == [  # a single slow training changes no cost
        ["none", "1.0", "– / 75.0", "100.0 / 74.0", "98.0 / 73.0"],
        ["V&B", "10.0", "– / 70.0", "10.0 / 69.0", "50.0 / 68.0"],
        ["split", "10.5", "– / 74.0", "1.0 / 73.0", "2.0 / 72.0"],
        ["ABL", "1.0", "– / 60.0", "0.0 / 50.0", "40.0 / 55.0"],
        ["never poisoned", "", "–", "2.0", "2.0"],
    ]
    assert found.rows == [
        ["V&B", "– / 20.0", "90.0 / 20.0", "40.0 / 30.0"],
        ["split", "– / 0.0", "100.0 / 0.0", "100.0 / 0.0"],
    ]
    assert [row[0] for row in parts.rows] == ["none", "V&B", "filter", "never poisoned"], "not the rivals"
    assert parts.rows[2] == ["filter", "1.0", "– / 71.0", "30.0 / 72.0"]
    assert found_by_parts.rows == [["filter", "– / 20.0", "80.0 / 25.0"]]


def test_costs_are_compared_with_plain_trainings_of_the_same_machine(record):
    slow = [
        record_of("none", "wanet", 0.74, 1.0, seconds={"train": 600.0}, machine="slow"),
        record_of("V&B", "wanet", 0.69, 0.1, found=(0.2, 0.9), seconds={"train": 6000.0}, machine="slow"),
        record_of(
            "split", "wanet", 0.7, 0.1, found=(0.2, 0.9), seconds={"train": 1.0}, network_read=True, machine="other"
        ),
    ]
    before, after = (tables({**record, "cells": cells})[0] for cells in (record["cells"], [*record["cells"], *slow]))
    assert [row[1] for row in after.rows] == [row[1] for row in before.rows]


def test_a_run_that_ended_early_has_tables_of_what_is_there(record):
    there = [cell for cell in record["cells"] if cell["cell"]["attack"]["group"] != "sig"]
    record["cells"] = [*there, record_of("none", "sig", 0.7, 0.9)]
    outcomes, _, parts, _ = tables(record)
    assert [row[-1] for row in outcomes.rows] == ["90.0 / 70.0", "–", "–", "–", "2.0"]
    assert [row[0] for row in outcomes.rows] == ["none", "V&B", "split", "ABL", "never poisoned"]
    assert [row[0] for row in parts.rows] == ["none", "V&B", "filter", "never poisoned"]


def test_titles_stand_above_the_tables(record):
    text = markdown(record)
    assert "**Attack success / accuracy (%)**\n\n| defense | cost of search and training" in text
    assert text.count("**") == 8


def test_some_rows_alone_make_tables_too(record):
    alone = [cell for cell in record["cells"] if cell["cell"]["defense"]["name"] == "V&B"]
    outcomes, found = tables({**record, "cells": alone})
    assert [row[1] for row in outcomes.rows] == ["–", ""], "no plain training to compare with"
    assert found.rows[0][0] == "V&B"


def test_remarks_count_the_victims_of_a_cell(record):
    assert "1 victim a cell" in markdown(record)
    again = record_of("none", "badnets", 0.74, 1.0)
    again["cell"]["seed"] = 1
    assert "1 to 2 victims a cell" in markdown({**record, "cells": [*record["cells"], again]})


def test_who_is_suspicious_when():
    poisoned = torch.tensor([True, True, False, False, False])
    scores = [torch.tensor(values) for values in ([0.0, 0.5, 0.5, 0.5, 1.0], [1.0, 0.99, 0.0, 0.01, 0.5])]
    looks = [Look(epoch, one > 0.8, one) for epoch, one in zip((3, 6), scores, strict=True)]
    found = describe_looks(looks, poisoned)
    assert found["epochs"] == [3, 6]
    assert (found["tpr"], found["fpr"]) == ([0.0, 1.0], [0.3333, 0.0])
    first, last = found["histograms"]
    assert first["epoch"] == 3
    assert (last["poisoned"][-1], sum(last["poisoned"])) == (2, 2)
    assert (last["clean"][0], last["clean"][10], sum(last["clean"])) == (2, 1, 3)
    assert "tpr" not in describe_looks(looks, poisoned & False)
    many = [Look(epoch, scores[0] > 0.8, scores[0]) for epoch in range(10)]
    assert [one["epoch"] for one in describe_looks(many, poisoned)["histograms"]] == [0, 3, 6, 9]


def test_what_published_code_would_report_stands_beside(record):
    course = {"images": 100, "accuracy": [0.3, 0.8, 0.8, 0.7]}
    for cell in record["cells"][3:6]:
        cell["by_epoch"] = course if cell is record["cells"][3] else course | {"success": [0.0, 0.25, 0.5, 0.1]}
    best = tables(record)[1]
    assert best.title.startswith("Not the result")
    assert best.rows == [["V&B", "– / 80.0", "25.0 / 80.0", "25.0 / 80.0"]]


def test_courses_are_drawn(record, tmp_path):
    poisoned = torch.arange(50) < 10
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0))
    looks = [Look(epoch, scores > 0.8, scores) for epoch in (1, 2, 5, 9)]
    assert "training_defenses-courses.png" not in draw_figures(record, tmp_path)
    for cell in record["cells"][3:6]:
        cell["by_epoch"] = {"images": 100, "accuracy": [0.1, 0.2], "success": [0.9, 0.8]}
    sizes = []
    for _ in range(2):  # without looks, then with them
        assert "training_defenses-courses.png" in draw_figures(record, tmp_path)
        sizes.append((tmp_path / "training_defenses-courses.png").stat().st_size)
        record["cells"][4]["looks"] = describe_looks(looks, poisoned)
    assert sizes[1] > sizes[0] > 10_000


def test_each_defense_has_a_look_of_its_own():
    names = ["none", *(f"PureGen {number}" for number in range(12)), *(f"rival {number}" for number in range(12))]
    looks = [(look["color"], look["marker"]) for look in _marks_of(names).values()]
    assert len(set(looks)) == len(names)


def test_courses_are_drawn_of_a_defense_that_looks(record, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("puregen_transforms.evaluate.figures._curves", lambda axes, title, curves: titles.append(title))
    for cell in record["cells"][:6]:
        cell["by_epoch"] = {"images": 100, "accuracy": [0.1, 0.2]}
    draw_figures(record, tmp_path)
    assert all(title.startswith("none, ") for title in titles)
    titles.clear()
    record["cells"][4]["looks"] = describe_looks([Look(1, torch.ones(9) > 0, torch.ones(9))], torch.arange(9) < 3)
    draw_figures(record, tmp_path)
    assert [title.split(", ")[0] for title in titles] == ["V&B", "V&B", "suspicious", "V&B"]


def test_mixed_examples_are_described_and_drawn(record, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randint(0, 256, (9, 3, 8, 8), generator=generator).byte(), torch.arange(9)
    found = describe_mixing(AttentionMix(lambda x: x.mean(1), threshold=0.5), images, labels)
    first, second, region, mixed = (
        np.asarray(look_at(base64.b64decode(found[name]))).astype(int)
        for name in ("first", "second", "region", "mixed")
    )
    assert first.shape == (8, 4 * 8, 3)
    assert (mixed == first)[region == 0].all()
    between = (np.minimum(first, second) <= mixed) & (mixed <= np.maximum(first, second))
    assert between.all()
    assert (mixed != first)[region > 0].any()
    assert [sum(weights) for weights in found["weights"]] == pytest.approx([1] * 4, abs=1e-3)
    places = [one.tolist() for one in images.permute(0, 2, 3, 1)]
    for column, pair in enumerate(found["labels"]):
        shown = [strip[:, 8 * column : 8 * column + 8].tolist() for strip in (first, second)]
        assert shown == [places[label] for label in pair]
    assert "training_defenses-mixed.png" not in draw_figures(record, tmp_path)
    record["cells"][3]["mixed"] = found
    assert "training_defenses-mixed.png" in draw_figures(record, tmp_path)
    assert (tmp_path / "training_defenses-mixed.png").stat().st_size > 10_000

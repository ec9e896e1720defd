"""Tables and reports, from records alone."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.data.demo import CLASSES
from puregen_transforms.evaluate.cells import VictimSpec
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.report import read_record, write_report
from puregen_transforms.evaluate.summaries import summarize
from puregen_transforms.evaluate.tables import markdown, tables
from puregen_transforms.hub.catalogue import CATALOGUE


def record_of(defense, group, accuracy, success=None, *, target="a", seed=0, detection=None):
    attack = {"name": "none" if success is None else "narcissus", "group": group, "settings": {}}
    victim = {"classifier": "small", "epochs": 12, "scenario": "scratch"}
    record = {
        "cell": {"attack": attack, "defense": {"name": defense}, "victim": victim, "seed": seed},
        "accuracy": accuracy,
        "seconds": {"all": 1.0},
    }
    if success is not None:
        record |= {"success": success, "success_never_poisoned": 0.01}
        record["poison"] = {"digest": target, "poisoned_rows": 5, "cover_rows": 2, "set_rows": 100}
    if detection is not None:
        record["detection"] = detection
    return record


@pytest.fixture
def record():
    found = {"tpr": 0.9, "fpr": 0.1, "auroc": 0.95}
    cells = [
        record_of("none", "no attack", 0.8),
        record_of("PureGen-EBM", "no attack", 0.7),
        record_of("none", "ε 16", 0.79, 0.9),
        record_of("none", "ε 16", 0.79, 0.7, seed=1),
        record_of("none", "ε 16", 0.76, 0.4, target="b"),
        record_of("PureGen-EBM", "ε 16", 0.7, 0.05, detection=found),
        record_of("PureGen-EBM", "ε 16", 0.72, 0.15, target="b", detection={**found, "tpr": 0.7}),
    ]
    return {
        "name": "narcissus",
        "title": "Narcissus",
        "command": "python benchmarks/narcissus.py --preset cpu",
        "preset": "cpu",
        "images": "cifar10-jpeg-train.parquet",
        "class_names": list(CLASSES),
        "jpeg_quality": 75,
        "weights_sha256": {"ebm": CATALOGUE["ebm-imagenet32-nf64"].sha256, "ddpm": "d"},
        "machine": "2 cores",
        "cells": cells,
    }


def test_a_summary_averages_seeds_before_attacks(record):
    summary = summarize(record["cells"][2:5])
    assert (summary.cells, summary.success, summary.worst) == (3, pytest.approx(0.6), pytest.approx(0.8))
    assert summary.deviation == pytest.approx(0.2)
    assert summary.accuracy == pytest.approx(0.78)
    assert summary.floor == pytest.approx(0.01)
    assert summarize(record["cells"][:1]).success is None


def test_detection_is_averaged(record):
    assert summarize(record["cells"][5:]).detection == pytest.approx({"tpr": 0.8, "fpr": 0.1, "auroc": 0.95})


def test_the_tables(record):
    outcomes, detectors = tables(record)
    assert outcomes.rows[0] == ["none", "80.0%", "60.0% (80.0%)", "78.0%", "83.63 / 93.67 / 97.36"]
    assert outcomes.rows[1] == ["PureGen-EBM", "70.0%", "10.0% (15.0%)", "71.0%", "7.35 / 85.61 / 16.94"]
    assert outcomes.rows[2] == ["never poisoned", "", "1.0%", "", ""]
    assert detectors.rows == [["PureGen-EBM", "ε 16", "0.800", "0.100", "0.950"]]


def test_one_defense_alone_gives_a_line_for_each_attack(record):
    (table,) = tables({**record, "cells": record["cells"][:1] + record["cells"][2:5]})
    assert table.rows == [
        ["no attack", "0", "0", "80.0%", "–", "–"],
        ["ε 16", "5", "2", "78.0%", "60.0%", "1.0%"],
    ]


def test_what_has_to_be_said(record):
    text = markdown(record)
    assert "python benchmarks/narcissus.py --preset cpu" in text
    assert "2 victims a cell" in text
    assert "no fair rival" not in text, "no row is compression"
    compressed = {**record["cells"][0], "cell": {**record["cells"][0]["cell"], "defense": {"name": "JPEG 75"}}}
    with_jpeg = markdown({**record, "cells": [*record["cells"], compressed]})
    assert "JPEG of quality 75 and above is no fair rival" in with_jpeg
    assert "PureGen-EBM of ebm-imagenet32-nf64;" in text
    other = {**record, "weights_sha256": {"ebm": "0123456789abcdef", "ddpm": "d"}}
    assert "PureGen-EBM of weights 0123456789ab;" in markdown(other)
    assert "two minutes" not in text
    assert "two minutes" in markdown({**record, "preset": "smoke"})


def test_published_figures_stand_beside_the_same_classes_alone(record):
    assert "paper: success / accuracy / worst class, %" in tables(record)[0].head
    other = {**record, "class_names": ["cat", "dog"]}
    assert not any("paper" in word for word in tables(other)[0].head)
    assert '"paper"' not in markdown(other)


def test_a_report_is_written_from_records(record, tmp_path):
    page = write_report([record, {**record, "name": "other", "title": "Another <one>"}], tmp_path / "report")
    text = page.read_text()
    assert "60.0% (80.0%)" in text
    assert "Another &lt;one&gt;" in text
    for name in ("narcissus-outcomes.png", "other-outcomes.png"):
        assert name in text
        assert (tmp_path / "report" / name).stat().st_size > 10_000
    assert "## Narcissus" in (tmp_path / "report/report.md").read_text()


def test_files_that_are_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_record(tmp_path / "nothing.json")
    for content in ("{", "[]", '{"benchmark": "purify_speed"}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=r"Expected (a|the JSON) record"):
            read_record(tmp_path / "x.json")


@pytest.mark.slow
def test_the_commands(tmp_path, record, monkeypatch):
    quick = replace(SCALES["smoke"], victim=VictimSpec(classifier="tiny", epochs=2))
    monkeypatch.setitem(SCALES, "smoke", quick)

    def run(*arguments):
        return CliRunner().invoke(app, [*map(str, arguments)])

    out = tmp_path / "out"
    options = ["--preset", "smoke", "--output", out, "--device", "cpu"]
    result = run("evaluate", "narcissus", *options, "--defense", "none", "--defense", "PureGen-EBM")
    assert result.exit_code == 0, result.output
    kept = json.loads((out / "narcissus.json").read_text())
    assert [one["cell"]["defense"]["name"] for one in kept["cells"]] == ["none", "PureGen-EBM"] * 2
    for name in (
        "report.html",
        "report.md",
        "narcissus-outcomes.png",
        "narcissus-energies.png",
        "narcissus-samples.png",
    ):
        assert (out / name).exists(), name
    result = run("report", out / "narcissus.json", "--output", tmp_path / "again")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again/report.md").read_text() == (out / "report.md").read_text()
    assert "bullseye_polytope" in run("evaluate", "list").output
    for arguments, words in (
        (("evaluate", "narcissus"), "Expected a training set"),
        (("evaluate", "nothing", *options), "Expected a protocol"),
        (("evaluate", "narcissus", *options, "--defense", "hope"), "Expected defenses out of"),
        (("report", tmp_path / "none.json"), "no file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert words in " ".join(result.output.split()), result.output


def test_attacks_on_all_that_is_learned_have_accuracy_alone(record):
    cells = [record_of(name, group, 0.5) for name in ("none", "JPEG 10") for group in ("no attack", "lsp")]
    for cell in (cells[1], cells[3]):
        cell["poison"] = {"digest": "a", "poisoned_rows": 100, "cover_rows": 0, "set_rows": 100}
    (table,) = tables({**record, "cells": cells})
    assert table.head == ["defense", "accuracy, no attack", "lsp: accuracy"]
    assert table.rows == [["none", "50.0%", "50.0%"], ["JPEG 10", "50.0%", "50.0%"]]


def test_sets_made_unlearnable_stand_beside_published_accuracies_and_are_averaged(record):
    cells = [record_of(name, group, 0.5) for name in ("none", "2 bits") for group in ("no attack", "lsp", "urp")]
    cells[4]["accuracy"] = 0.6
    for cell in cells:
        if cell["cell"]["attack"]["group"] != "no attack":
            cell["poison"] = {"digest": "a", "poisoned_rows": 100, "cover_rows": 0, "set_rows": 100}
    shown = {**record, "name": "availability", "cells": cells}
    (table,) = tables(shown)
    words = ["lsp: accuracy", "paper: accuracy, %", "urp: accuracy", "paper: accuracy, %"]
    assert table.head == ["defense", "accuracy, no attack", *words, "mean of attacks: accuracy"]
    assert table.rows == [
        ["none", "50.0%", "50.0%", "13.1", "50.0%", "16.8", "50.0%"],
        ["2 bits", "50.0%", "60.0%", "–", "50.0%", "–", "55.0%"],
    ]
    assert "APBench" in markdown(shown)
    assert "1 % of the rows" not in markdown(shown)
    (table,) = tables({**shown, "cells": cells[:-1]})
    assert table.rows[1][-1] == "–", "no mean where an attack is missing"

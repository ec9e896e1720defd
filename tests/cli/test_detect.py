import csv
import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.detection import DETECTORS, DetectionReport, Detector
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.detection.network import train_network
from puregen_transforms.functional.images import normalize


@pytest.fixture(scope="module")
def demo():
    return load_demo()


def run(*arguments):
    return CliRunner().invoke(app, ["detect", *map(str, arguments)])


@pytest.fixture
def source(demo, tmp_path):
    """Sixty images, seven dogs of which carry the demo trigger."""
    rows = (demo.labels == 5).nonzero().flatten()[:7].tolist() + (demo.labels == 1).nonzero().flatten().tolist()
    rows += (demo.labels == 3).nonzero().flatten().tolist()
    images = demo.images[rows].clone()
    images[:7] = add_trigger(images[:7], demo.trigger)
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    path = tmp_path / "set.parquet"
    Dataset.from_dict({"image": pictures, "label": demo.labels[rows].tolist()}, features).to_parquet(path)
    return path


def test_the_list_says_what_each_needs():
    printed = run("list").stdout
    for name in DETECTORS:
        assert name in printed
    assert "images alone" in printed
    assert "presets: smoke, cpu, paper" in printed


def test_carriers_are_flagged_and_written_down(source, tmp_path):
    done = run("shared-patterns", source, "--output", tmp_path / "out", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "shared_patterns: 7 of 47 images flagged." in " ".join(done.stdout.split())
    assert "dog" in done.stdout
    report = DetectionReport.load(tmp_path / "out/report.safetensors")
    assert report.flagged.nonzero().flatten().tolist() == list(range(7))
    lines = list(csv.DictReader((tmp_path / "out/images.csv").open()))
    assert [line["flagged"] for line in lines] == ["1"] * 7 + ["0"] * 40


def test_images_with_a_palette_are_searched_where_they_may_be_converted(demo, tmp_path):
    for row in range(40):
        path = tmp_path / "set" / ("cat", "dog")[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = PILImage.fromarray(demo.images[row].permute(1, 2, 0).numpy())
        (picture if row else picture.quantize(32)).save(path)
    arguments = ("shared-patterns", tmp_path / "set", "--output", tmp_path / "out", "--device", "cpu")
    assert "0.png" in (refused := run(*arguments).output)
    assert "--convert" in refused
    done = run(*arguments, "--convert")
    assert done.exit_code == 0, done.output


def test_a_preset_is_chosen_and_the_state_is_cleared(source, demo, tmp_path):
    rows = demo.labels != 0
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in demo.images[rows].flip(3)]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    Dataset.from_dict({"image": pictures, "label": demo.labels[rows].tolist()}, features).to_parquet(
        tmp_path / "reserved.parquet"
    )
    out = ("--output", tmp_path / "out", "--device", "cpu", "--reserved", tmp_path / "reserved.parquet")
    short = ("--set", "iterations=[3,3,3,3,3,3]", "--set", "base_epochs=1", "--set", "pretrain_epochs=[1,1,1,1,1,1]")
    done = run("confusion-training", source, *out, "--preset", "smoke", *short)
    assert done.exit_code == 0, done.output
    settings = DetectionReport.load(tmp_path / "out/report.safetensors").settings
    assert (settings["network"], settings["iterations"]) == ("tiny", [3] * 6)
    assert not (tmp_path / "out/state").exists()


def test_the_preset_is_cpu_where_none_is_named():
    from puregen_transforms.cli.detect import _build

    assert _build("confusion-training", None, {}).network == "small"
    assert _build("confusion-training", "paper", {}).network == "resnet18"
    assert _build("energy-outliers", None, {"threshold": 2}).threshold == 2


def test_pipelines_see_it_in_the_exit_code(source, tmp_path):
    out = ("--output", tmp_path / "out", "--device", "cpu", "--fail-on-flagged")
    assert run("energy-outliers", source, *out, "--set", "threshold=-1").exit_code == 2
    assert run("energy-outliers", source, *out, "--set", "threshold=1000").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such", "SRC"), "Expected a detector out of shared_patterns"),
        (("shared-patterns",), "puregen detect NAME SRC"),
        (("shared-patterns", "SRC", "--set", "speed=3"), "settings of the detector 'shared_patterns' out of"),
        (("shared-patterns", "SRC", "--set", "speed"), "Expected a setting NAME=VALUE"),
        (("shared-patterns", "SRC", "--preset", "cpu"), "preset of another detector, as this has none"),
        (("confusion-training", "SRC", "--preset", "gpu"), "preset out of smoke, cpu, paper, but got 'gpu'"),
        (("confusion-training", "SRC"), "`reserved`"),
        (("shared-patterns", "nothing/here"), "nothing/here"),
    ],
)
def test_mistakes_are_explained(source, arguments, message):
    done = run(*(source if word == "SRC" else word for word in arguments))
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())


@dataclass(frozen=True, kw_only=True)
class Unsure(Detector):
    """Flag the images of which the network is least sure."""

    needs = frozenset({"labels", "network"})

    def detect(self, suspects):
        images = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in suspects.images])
        with torch.no_grad():
            scores = 1 - suspects.network(normalize(images)).float().softmax(1).max(1).values
        return DetectionReport(scores=scores, flagged=scores >= scores.max())


def test_a_network_is_trained_for_detectors_that_look_into_one(source, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "unsure", Unsure)
    listed = " ".join(run("list").stdout.split())
    assert "unsure" in listed
    assert "labels, network" in listed.replace("│ ", "")
    scores = []
    for folder in ("a", "b"):
        done = run("unsure", source, "--output", tmp_path / folder, "--device", "cpu", "--epochs", "2")
        assert done.exit_code == 0, done.output
        scores.append(DetectionReport.load(tmp_path / folder / "report.safetensors").scores)
        written = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert written == ["images.csv", "opened.json", "report.safetensors"]
    assert torch.equal(*scores)


def test_what_is_missing_is_said_before_a_network_is_trained(source, monkeypatch):
    monkeypatch.setattr("puregen_transforms.detection.network.train_network", lambda *given, **settings: 1 / 0)
    done = run("scan", source, "--device", "cpu")
    assert done.exit_code == 1
    assert "clean labelled set" in " ".join(done.stderr.split())


def test_a_network_of_another_seed_is_not_taken_for_this_one(tmp_path):
    demo = load_demo()
    given = {"classes": 10, "classifier": "tiny", "epochs": 1, "state": tmp_path}
    first, again, other = (
        train_network(demo.images[:40], demo.labels[:40], seed=seed, **given).state_dict() for seed in (0, 0, 1)
    )
    name = next(iter(first))
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.fixture
def stamped(demo, tmp_path):
    """The packaged images, twenty of which have a patch and the label of a dog."""
    images, labels = demo.images.clone(), demo.labels.clone()
    patch = torch.randint(0, 256, (3, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[::10, :, 2:7, 3:8] = patch
    labels[::10] = 5
    features = Features({"image": Image(), "label": ClassLabel(names=["<b>cat</b>", *CLASSES[1:]])})
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    path = tmp_path / "stamped.parquet"
    Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features).to_parquet(path)
    return path


def test_without_a_detector_everything_is_searched(stamped, tmp_path):
    out = tmp_path / "out"
    done = run(stamped, "--budget", "2m", "--output", out, "--device", "cpu", "--fail-on-flagged")
    assert done.exit_code == 2, done.output
    shown = " ".join(done.stdout.split())
    assert "Poisoned: 20 of 200 images should not be learned." in shown
    assert "raise it to 20m" in shown, "what was not looked for is said"
    lines = list(csv.DictReader((out / "images.csv").open()))
    assert [int(line["row"]) for line in lines if line["verdict"] == "poison"] == list(range(0, 200, 10))
    assert {line["class"] for line in lines if line["verdict"] == "poison"} == {"dog"}
    assert {line["found_by"] for line in lines if line["verdict"] == "poison"} == {"stamps"}
    verdict = json.loads((out / "verdict.json").read_text())
    assert (verdict["level"], verdict["flagged"]) == ("poisoned", 20)
    assert verdict["not_looked_for"]
    page = (out / "report.html").read_text()
    assert "<b>cat" not in page, "names of a foreign set are shown as text"
    assert "the same patch at the same place" in page
    assert "data:image/png;base64," in page
    assert not (out / "state").exists()


def test_a_false_alarm_stays_kept_when_its_file_was_renamed(stamped, tmp_path):
    folder, out = tmp_path / "set", tmp_path / "out"
    dataset = Dataset.from_parquet(str(stamped)).cast_column("image", Image(decode=False))
    for row, (cell, label) in enumerate(zip(dataset["image"], dataset["label"], strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        (folder / f"{label}/{row:03}.png").write_bytes(cell["bytes"])
    assert run(folder, "--budget", "2m", "--output", out, "--device", "cpu").exit_code == 0
    suspects = [line for line in csv.DictReader((out / "images.csv").open()) if line["verdict"] == "poison"]
    assert len(suspects) == 20
    alarm, other = (folder / suspects[place]["name"] for place in (0, 1))
    bystander = next(path for path in sorted(folder.rglob("*.png")) if int(path.stem) % 10)
    decisions = Decisions.load(out)
    for path, answer in ((alarm, "keep"), (other, "unsure"), (bystander, "drop")):
        decisions.decide(hashlib.sha256(path.read_bytes()).hexdigest(), answer)
    alarm.rename(alarm.with_name("renamed.png"))

    done = run(folder, "--budget", "2m", "--output", tmp_path / "again", "--decisions", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    verdicts = {line["name"]: line["verdict"] for line in csv.DictReader((tmp_path / "again/images.csv").open())}
    assert verdicts[str(alarm.with_name("renamed.png").relative_to(folder))] == ""
    assert verdicts[str(other.relative_to(folder))] == verdicts[str(bystander.relative_to(folder))] == "poison"
    assert list(verdicts.values()).count("poison") == 20
    again = run(folder, "--budget", "2m", "--output", out, "--device", "cpu")
    assert again.exit_code == 0, again.output
    assert (out / "images.csv").read_bytes() == (tmp_path / "again/images.csv").read_bytes(), "those beside the report"
    assert run(folder, "--decisions", tmp_path / "none").exit_code == 1


def test_a_clean_set_is_not_declared_clean(demo, tmp_path):
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in demo.images]
    Dataset.from_dict({"image": pictures, "label": demo.labels.tolist()}, features).to_parquet(tmp_path / "set.parquet")
    done = run(tmp_path / "set.parquet", "--budget", "2m", "--output", tmp_path / "out", "--fail-on-flagged")
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    assert "searches found poison in 200 images" in shown
    assert "Not looked for, so it could still be there" in shown
    page = " ".join((tmp_path / "out/report.html").read_text().split())
    assert "That is no proof that the set is clean" in page


def test_settings_are_those_of_a_detector(source, tmp_path):
    done = run(source, "--set", "threshold=3", "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "puregen detect DETECTOR SRC" in done.stderr


def test_options_of_ray_are_refused_where_they_do_nothing(source, tmp_path):
    for words, message in (
        (["detect", "stamps", source, "--engine", "ray"], "without a detector"),
        (["detect", source, "--actors", "2"], "--engine ray alone"),
        (["clean", source, tmp_path / "out", "--actors", "2"], "--engine ray alone"),
    ):
        done = CliRunner().invoke(app, list(map(str, words)))
        assert done.exit_code == 1
        assert message in " ".join(done.output.split())

"""`puregen train vab`: a classifier, its card, and what it held for poisoned."""

import csv
import json

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.cli.train_vab import NAME
from puregen_transforms.detection import DetectionReport
from puregen_transforms.functional import normalize
from puregen_transforms.models import load_classifier
from tests.defenses.constructed import backdoored

SHORT = ["--preset", "smoke", "--classifier", "tiny", "--device", "cpu"]
for _setting in ("epochs=3", "clean_epochs=1", "weight_rise=2", "warmup_steps=1"):
    SHORT += ["--set", _setting]


@pytest.fixture
def images():
    return backdoored(40, 4, 16)


@pytest.fixture
def source(images, tmp_path):
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images[0]]
    features = Features({"image": Image(), "label": ClassLabel(names=["red", "green", "blue", "none"])})
    path = tmp_path / "set.parquet"
    Dataset.from_dict({"image": pictures, "label": images[1].tolist()}, features).to_parquet(path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["train", "vab", *map(str, arguments)])


def test_the_folder_has_classifier_card_and_report(source, images, tmp_path):
    out = tmp_path / "out"
    done = run(source, out, *SHORT)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "images.csv",
        "model.safetensors",
        "record.json",
        "report.safetensors",
    ]
    saved = load_classifier(out)
    assert saved.class_names == ("red", "green", "blue", "none")
    assert saved.model(normalize(images[0][:2])).shape == (2, 4)
    report, record = DetectionReport.load(out / "report.safetensors"), json.loads((out / "record.json").read_text())
    assert report.detector == NAME
    assert report.settings["epochs"] == record["settings"]["epochs"] == 3
    assert f"{int(report.flagged.sum())} of 40 images flagged" in " ".join(done.stdout.split())
    assert record["flagged"] == int(report.flagged.sum())
    assert {one.name for one in report.classes} == set(saved.class_names)
    lines = list(csv.DictReader((out / "images.csv").open()))
    assert [line["flagged"] for line in lines] == [str(int(flag)) for flag in report.flagged]
    card = (out / "README.md").read_text()
    assert record["weights_sha256"] in card
    assert "40 images that may be poisoned" in " ".join(card.split())


def test_a_killed_run_goes_on_to_the_same_classifier(source, tmp_path, monkeypatch):
    from puregen_transforms.defenses.beneficiary import Beneficiary

    assert run(source, tmp_path / "whole", *SHORT).exit_code == 0
    learn, epochs = Beneficiary.learn, []

    def die(self, *given):
        epochs.append(1)
        if len(epochs) == 2:
            raise ValueError("killed")
        return learn(self, *given)

    monkeypatch.setattr(Beneficiary, "learn", die)
    assert run(source, tmp_path / "killed", *SHORT).exit_code == 1
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["state"]
    assert run(source, tmp_path / "killed", *SHORT).exit_code == 0
    assert len(epochs) == 4, "the first epoch is not repeated"
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_detector_may_split_the_set(source, images, tmp_path):
    DetectionReport(scores=torch.rand(40), flagged=images[3], detector="oracle").save(tmp_path / "found.safetensors")
    done = run(source, tmp_path / "out", *SHORT, "--flags", tmp_path / "found.safetensors")
    assert done.exit_code == 0, done.output
    assert torch.equal(DetectionReport.load(tmp_path / "out/report.safetensors").flagged, images[3])
    assert json.loads((tmp_path / "out/record.json").read_text())["split_by"] == "oracle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SRC", "--set", "speed=3"), "settings of 'victim_beneficiary' out of epochs"),
        (("SRC", "--flags", "nothing.safetensors"), "no file 'nothing.safetensors'"),
        (("SRC", "--classifier", "huge"), "Expected a classifier out of tiny, small"),
        (("nothing/here",), "nothing/here"),
    ],
)
def test_mistakes_are_explained(source, tmp_path, arguments, message):
    first, *rest = arguments
    done = run(source if first == "SRC" else first, tmp_path / "out", *rest)
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())


def test_images_without_a_class_are_refused(tmp_path):
    pictures = [PILImage.new("RGB", (16, 16))] * 4
    Dataset.from_dict({"image": pictures}, Features({"image": Image()})).to_parquet(tmp_path / "set.parquet")
    done = run(tmp_path / "set.parquet", tmp_path / "out")
    assert done.exit_code == 1
    assert "Expected a class of each image" in " ".join(done.stderr.split())

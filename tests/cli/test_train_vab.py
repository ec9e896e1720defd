"""`puregen train vab`: a classifier, its card, and what it held for poisoned."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from puregen_transforms.attacks import craft
from puregen_transforms.cli import train_vab
from puregen_transforms.cli.main import app
from puregen_transforms.cli.train_vab import NAME
from puregen_transforms.data.demo import CLASSES
from puregen_transforms.defenses import VictimBeneficiary
from puregen_transforms.defenses.victim import Victim
from puregen_transforms.detection import DetectionReport
from puregen_transforms.functional import normalize
from puregen_transforms.models import load_classifier
from tests.defenses.constructed import backdoored
from tests.detection.test_shortcuts import enlarged

FLAGGED = VictimBeneficiary.presets["flagged"]
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


def test_a_set_that_a_detector_has_split_is_learned_by_the_preset_for_that(source, images, tmp_path):
    report = tmp_path / "found.safetensors"
    DetectionReport(scores=torch.rand(40), flagged=images[3], detector="oracle").save(report)
    tiny = ["--classifier", "tiny", "--device", "cpu"]
    done = run(source, tmp_path / "out", *tiny, "--flags", report, "--set", "epochs=11")
    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out/record.json").read_text())["settings"]
    assert {name: settings[name] for name in FLAGGED} == {**FLAGGED, "epochs": 11}


def test_without_a_report_the_set_is_searched_first(source, images, tmp_path, monkeypatch):
    tiny = ["--classifier", "tiny", "--device", "cpu", "--set", "epochs=2"]
    trained = train_vab._train

    def die(*given, **options):
        raise ValueError("killed")

    monkeypatch.setattr(train_vab, "_train", die)
    killed = run(source, tmp_path / "out", *tiny)
    assert killed.exit_code == 1
    monkeypatch.setattr(train_vab, "_train", trained)
    done = run(source, tmp_path / "out", *tiny)
    assert done.exit_code == 0, done.output
    assert "looking for patches" in killed.stderr
    assert "looking for patches" not in done.stderr, "a search that was finished is not made again"
    assert "Poisoned: 4 of 40 images" in done.stdout
    assert "Not looked for" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out/search").iterdir()) == [
        "images.csv",
        "images.parquet",
        "report.html",
        "searches",
        "verdict.json",
    ]
    assert not (tmp_path / "out/state").exists()
    assert torch.equal(DetectionReport.load(tmp_path / "out/report.safetensors").flagged, images[3])
    record = json.loads((tmp_path / "out/record.json").read_text())
    assert record["split_by"] == "whole_search"
    assert {name: record["settings"][name] for name in FLAGGED} == {**FLAGGED, "epochs": 2}
    again = run(source, tmp_path / "again", *tiny, "--flags", tmp_path / "out/search")
    assert again.exit_code == 0, again.output
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1], "the report of a search is its split"
    numbers = tmp_path / "out/search/verdict.json"
    numbers.write_text(json.dumps({**json.loads(numbers.read_text()), "level": "made unlearnable"}))
    refused = run(source, tmp_path / "none", *tiny, "--flags", tmp_path / "out/search")
    assert refused.exit_code == 1
    assert "made unlearnable" in refused.stderr
    numbers.write_text("[1]")
    refused = run(source, tmp_path / "none", *tiny, "--flags", tmp_path / "out/search")
    assert refused.exit_code == 1
    assert "Expected the verdict of a search" in refused.stderr


@pytest.mark.slow
def test_a_set_made_unlearnable_is_not_learned(tmp_path):
    clean = enlarged()
    images, labels = craft("urp", clean, preset="cpu").apply_to_tensors(clean.images, clean.labels)
    pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})
    Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features).to_parquet(tmp_path / "traces.parquet")
    done = run(tmp_path / "traces.parquet", tmp_path / "out", "--classifier", "tiny", "--device", "cpu")
    assert done.exit_code == 1, done.output
    assert "it was made unlearnable" in " ".join(done.stderr.split())
    assert not (tmp_path / "out/model.safetensors").exists()


def test_images_of_several_sizes_are_resized_if_asked(tmp_path):
    for row in range(8):
        path = tmp_path / "set" / "ab"[row % 2] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (16 + row, 20), (9 * row, 0, 0)).save(path)
    refused = run(tmp_path / "set", tmp_path / "out", *SHORT)
    assert refused.exit_code == 1
    assert "--size" in refused.stderr
    done = run(tmp_path / "set", tmp_path / "out", *SHORT, "--size", 16)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/record.json").read_text())["image_size"] == [16, 16]


def test_several_processes_want_a_set_that_was_searched(source, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run(source, tmp_path / "out", "--classifier", "tiny")
    assert done.exit_code == 1
    assert "puregen detect" in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_split_that_takes_many_images_for_suspicious_is_doubted(source, images, tmp_path):
    """Almost all by a threshold just below 1; a detector that flags half of them is believed."""
    done = run(source, tmp_path / "many", *SHORT, "--set", "thresholds=[0.999]")
    assert done.exit_code == 0, done.output
    assert "more than 25% of the images for suspicious" in " ".join(done.stdout.split())
    many = DetectionReport(scores=torch.rand(40), flagged=torch.arange(40) < 20)
    many.save(tmp_path / "found.safetensors")
    for name, options in (
        ("few", ["--set", "thresholds=[0.0]"]),
        ("given", ["--flags", tmp_path / "found.safetensors"]),
    ):
        done = run(source, tmp_path / name, *SHORT, *options)
        assert done.exit_code == 0, done.output
        assert "for suspicious" not in done.stdout


WORKER = """
import sys
from pathlib import Path
import torch
from puregen_transforms.cli import main, train_vab
from puregen_transforms.defenses.victim import Victim
from puregen_transforms.train.data_parallel import DataParallel

folder, train = Path(sys.argv.pop(1)), train_vab._train

def kept(*given, **options):
    trained, accelerator = train(*given, **options), given[4]
    torch.save(trained.model.state_dict(), folder / f"trained-{accelerator.process_index}.pt")
    model, images, labels = torch.load(folder / "plain.pt", weights_only=False)
    parallel = DataParallel(accelerator)
    victim = Victim(model, batch=6, generator=torch.Generator().manual_seed(0), parallel=parallel)
    loss = victim.learn(images, labels, torch.arange(len(labels)))
    learned = model.state_dict() | {"loss": torch.tensor(loss), "logits": parallel.of_each(victim.logits, images)}
    torch.save(learned, folder / f"plain-{accelerator.process_index}.pt")
    return trained

train_vab._train = kept
main.app()
"""


@pytest.mark.slow
def test_two_processes_share_the_work_and_end_with_the_same_networks(source, images, tmp_path):
    """Each learns its part of every batch. Without batch norms, they learn what a single process does."""
    (tmp_path / "worker.py").write_text(WORKER)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 4))
    torch.save((model, *images[:2]), tmp_path / "plain.pt")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = ["worker.py", str(tmp_path), "train", "vab", str(source), str(tmp_path / "out"), *SHORT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*launcher, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Classifier and report in") == 1, "one process writes"
    written = load_file(tmp_path / "out/model.safetensors")
    for rank in (0, 1):
        torch.testing.assert_close(dict(torch.load(tmp_path / f"trained-{rank}.pt")), written, rtol=0, atol=0)
    victim = Victim(model, batch=6, generator=torch.Generator().manual_seed(0))
    loss = victim.learn(*images[:2], torch.arange(40))
    learned = [dict(torch.load(tmp_path / f"plain-{rank}.pt")) for rank in (0, 1)]
    torch.testing.assert_close(learned[0], learned[1], rtol=0, atol=0)
    expected = model.state_dict() | {"loss": torch.tensor(loss)}
    for name, value in expected.items():  # steps of 0.001; in bfloat16 a few gradients have another sign
        assert (learned[0][name] - value).abs().mean() < 1e-4, name
    torch.testing.assert_close(learned[0]["logits"], victim.logits(images[0]), rtol=0, atol=0.01)


TIMED = """
import os, signal, sys, threading, time
from puregen_transforms.cli import main, train_vab

life, train = float(sys.argv.pop(1)), train_vab._train

def timed(*given, **options):
    if life:
        threading.Timer(life, os.kill, (os.getpid(), signal.SIGKILL)).start()
    start = time.monotonic()
    trained = train(*given, **options)
    print("seconds", time.monotonic() - start)
    return trained

train_vab._train = timed
main.app()
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_classifier(source, tmp_path):
    """SIGKILL while networks are trained or their state is written: ten times in about half of the time of a run."""
    (tmp_path / "worker.py").write_text(TIMED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}

    def ended(out, life=0.0):
        longer = ["--set", "epochs=120", "--set", "clean_epochs=60", "--set", "weight_rise=90"]
        command = [sys.executable, "worker.py", str(life), "train", "vab", str(source), str(out), *SHORT, *longer]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    told = ended(whole)
    assert told.returncode == 0, told.stderr
    seconds = float(told.stdout.split("seconds")[1].split()[0])
    for moment in random.Random(0).choices(range(1, 101), k=10):
        dead = ended(killed, life=seconds * moment / 1000)
        assert dead.returncode == -signal.SIGKILL, dead.stderr
        assert {path.name for path in killed.iterdir()} <= {"state"}
    last = ended(killed)
    assert last.returncode == 0, last.stderr
    assert float(last.stdout.split("seconds")[1].split()[0]) < 0.9 * seconds, "what was learned is not repeated"
    for name in ("model.safetensors", "report.safetensors", "images.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


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

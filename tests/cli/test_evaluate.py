"""`puregen evaluate` on sets of one's own."""

import json

import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.data.demo import load_demo


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
    """Three classes of 64-pixel images."""
    demo = load_demo()
    for row in range(60):
        folder = tmp_path / "photos" / ("cat", "dog", "elk")[row % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(demo.images[row].permute(1, 2, 0).numpy()).resize((64, 64))
        picture.save(folder / f"{row}.png")
    return tmp_path / "photos"


def test_narcissus_on_a_folder_of_ones_own(photos, tmp_path):
    out = tmp_path / "out"
    rows = ("--defense", "none", "--defense", "JPEG 25")
    done = run("narcissus", photos, "--preset", "smoke", "--output", out, "--device", "cpu", *rows)
    assert done.exit_code == 0, done.output
    record = json.loads((out / "narcissus.json").read_text())
    assert record["class_names"] == ["cat", "dog", "elk"]
    attacked = [cell for cell in record["cells"] if cell["cell"]["attack"]["name"] == "narcissus"]
    assert [cell["cell"]["defense"]["name"] for cell in attacked] == ["none", "JPEG 25"]
    assert all(0 <= cell["success"] <= 1 for cell in attacked)
    assert record["command"] == "puregen evaluate narcissus TRAIN --preset smoke --defense none --defense 'JPEG 25'"
    assert "paper" not in (out / "report.md").read_text()


def test_what_is_missing_is_said(photos):
    for arguments, words in (
        (("narcissus", photos), "Name a set of them with --public"),
        (("bullseye_polytope", photos, "--preset", "smoke"), "This protocol trains feature extractors on 48 images"),
        (("narcissus",), "Expected a training set and a test set"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1
        assert words in " ".join(done.output.split())


def test_the_list_says_what_is_needed_and_how_long_it_takes():
    printed = " ".join(run("list").output.split())
    for words in ("bullseye_polytope", "--public", "4,850", "1 h 40 min"):
        assert words in printed, words


@pytest.fixture
def network(tmp_path):
    """A small network with random weights, in timm's layout."""
    timm = pytest.importorskip("timm", reason='needs the extra "features"')
    home = tmp_path / "mine"
    home.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), home / "model.safetensors")
    about = {"num_classes": 10, "input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.5] * 3}
    about |= {"first_conv": "conv1.0", "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": about}
    (home / "config.json").write_text(json.dumps(config))
    return home


def test_photographs_on_a_network_of_ones_own(photos, network, tmp_path):
    out = tmp_path / "out"
    words = ("--preset", "smoke", "--output", out, "--device", "cpu", "--defense", "none")
    done = run("photographs", photos, "--backbone", f"local-dir:{network}", *words)
    assert done.exit_code == 0, done.output
    text = (out / "photographs.json").read_text()
    assert str(network) not in text
    record = json.loads(text)
    assert {cell["cell"]["victim"]["classifier"] for cell in record["cells"]} == {"local-dir:mine"}
    assert "--backbone local-dir:mine" in record["command"]
    assert "frozen, with a linear layer on its features" in (out / "report.md").read_text()

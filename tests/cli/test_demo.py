import json

import PIL.Image
import pytest
from typer.testing import CliRunner

from puregen_transforms.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


def test_demo_writes_numbers_and_pictures(tmp_path):
    result = run("--output", tmp_path / "out", "--images", 8, "--steps", 10)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out/demo.json").read_text())
    assert record["images"] == 8
    assert record["purifier"]["ebm_steps"] == 10
    assert 0 < record["trigger_left"] < 1.2
    assert record["psnr_poisoned"] > 30, "the trigger is hard to see"
    for name in ("before_and_after.png", "energies.png"):
        with PIL.Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 400


def test_demo_without_matplotlib_still_prints_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("puregen_transforms.cli.demo.has_extra", lambda module: False)
    result = run("--output", tmp_path / "out", "--images", 8, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "puregen-transforms[report]" in result.output.replace("\n", "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo.json"]


@pytest.mark.parametrize("arguments", [("--images", 5), ("--steps", -1), ("--checkpoint", "no-such-checkpoint")])
def test_bad_options(tmp_path, arguments):
    result = run("--output", tmp_path / "out", *arguments)
    assert result.exit_code != 0
    assert "Traceback" not in result.output


def test_demo_into_a_file(tmp_path):
    (tmp_path / "out").write_text("in the way")
    result = run("--output", tmp_path / "out", "--images", 8, "--steps", 1)
    assert result.exit_code == 1
    assert "out" in result.output

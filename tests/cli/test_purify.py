"""`puregen purify`: destination, errors, options, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from datasets import Dataset, Features, Image, load_dataset
from PIL import Image as PILImage

from puregen_transforms import PureGen
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.purify import purify
from tests.cli.files import encoded, nothing_left, picture, put, tree

app = typer.Typer()
app.command()(purify)


def test_a_log_says_how_long_it_will_take_and_how_far_it_is(tmp_path, run_purify):
    for number in range(12):
        put(tmp_path / f"in/{number}.png", encoded(picture(number)))
    lines = run_purify(tmp_path / "in", tmp_path / "out", "--batch-size", 5).stderr.splitlines()
    assert lines[0].startswith("Estimate: ")
    assert lines[0].endswith(" for 12 images of about 13x13 pixels.")
    assert lines[1].startswith("purifying: 12 of 12, ")
    assert len(lines) == 2


def test_the_first_pass_says_how_far_it_is(tmp_path, run_purify, tiny_ddpm):
    for number in range(3):
        put(tmp_path / f"in/{number}.png", encoded(picture(number, (32, 32))))
    options = ("--method", "filt", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm)
    lines = run_purify(tmp_path / "in", tmp_path / "out", *options).stderr.splitlines()
    assert lines[0].startswith("Estimate: "), "said before any of the work"
    assert lines[1] == "First pass: measuring the energy of every image."
    assert any(line.startswith("measuring energies: 3 of 3, ") for line in lines)


class TestDestination:
    @pytest.fixture
    def source(self, tmp_path):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        return tmp_path / "in"

    def test_nothing_is_overwritten(self, source, tmp_path, run_purify):
        put(tmp_path / "out/mine.txt", "mine")
        put(tmp_path / "file", "mine")
        for name in ("out", "file"):
            result = run_purify(source, tmp_path / name)
            assert result.exit_code == 1
            assert "overwritten" in result.stderr
        assert tree(tmp_path) == ["file", "in/a.png", "out/mine.txt"]

    def test_an_empty_folder_is_filled(self, source, tmp_path, run_purify):
        (tmp_path / "out").mkdir()
        assert run_purify(source, tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["a.png"]

    def test_outside_the_source(self, source, tmp_path, run_purify):
        (tmp_path / "link").symlink_to(source)
        for name in ("in", "in/deep/out", "link/out"):
            assert run_purify(source, tmp_path / name).exit_code == 1
        assert tree(source) == ["a.png"]
        assert sorted(path.name for path in source.iterdir()) == ["a.png"]

    def test_a_folder_of_images_is_no_parquet_file(self, source, tmp_path, run_purify):
        assert run_purify(source, tmp_path / "out.parquet").exit_code == 1

    def test_read_only(self, source, tmp_path, run_purify, monkeypatch):
        def fail(*_, **__):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("os.fsync", fail)
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert f"write in {tmp_path}" in result.stderr
        assert "Read-only file system" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_disk_full_midway(self, source, tmp_path, run_purify, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device", "out")

        monkeypatch.setattr("puregen_transforms.whole_sets.copy_folder.CopyFolder.put", fail)
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "No space left on device" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_interrupt_leaves_nothing(self, source, tmp_path, run_purify, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("puregen_transforms.whole_sets.copy_folder.CopyFolder.put", interrupt)
        assert run_purify(source, tmp_path / "new/out").exit_code != 0
        assert nothing_left(tmp_path, "in")

    def test_termination_leaves_nothing(self, tmp_path, tiny_checkpoint):
        for index in range(3):
            put(tmp_path / f"in/{index}.png", encoded(picture(index, (64, 64))))
        code = (
            "import sys, typer; from puregen_transforms.cli.purify import purify; app = typer.Typer(); "
            "app.command()(purify); app()"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "in",
            "out",
            "--checkpoint",
            str(tiny_checkpoint),
            "--steps",
            "5000",
            "--batch-size",
            "1",
            "--device",
            "cpu",
        ]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "out.unfinished/job.json").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM
        assert b"Traceback" not in output
        assert nothing_left(tmp_path, "in")


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError, OSError, FloatingPointError, FileNotFoundError])
    def test_expected_ones_become_a_paragraph(self, capsys, error):
        with pytest.raises(typer.Exit) as exit_, explain_errors():
            raise error("Expected this,\n but got that.")
        assert exit_.value.exit_code == 1
        assert capsys.readouterr().err == "Error: Expected this, but got that.\n"

    def test_bugs_keep_their_traceback(self):
        with pytest.raises(KeyError), explain_errors():
            raise KeyError("x")


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--method", "nonsense", "nonsense"),
            ("--steps", "-1", "-1"),
            ("--device", "toaster", "toaster"),
            ("--dtype", "int3", "int3"),
            ("--batch-size", "0", "0"),
            ("--on-error", "cry", "cry"),
            ("--checkpoint", "./nowhere", "nowhere"),
        ],
    )
    def test_bad_values_are_explained(self, tmp_path, run_purify, option, value, words):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        result = run_purify(tmp_path / "in", tmp_path / "out", option, value)
        assert result.exit_code in (1, 2)
        assert words in result.stderr
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)
        assert nothing_left(tmp_path, "in")

    def test_no_source(self, tmp_path, run_purify):
        (tmp_path / "empty").mkdir()
        for name in ("nowhere", "empty"):
            result = run_purify(tmp_path / name, tmp_path / "out")
            assert result.exit_code == 1
            assert str(tmp_path / name) in result.stderr
        assert nothing_left(tmp_path, "empty")


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_filt_measures_the_whole_set_first(run_purify, tiny_checkpoint, tiny_ddpm, tmp_path, kind):
    pictures = [picture(seed, size=(32, 32)) for seed in range(10)]
    if kind == "folder":
        source = tmp_path / "set"
        for index, image in enumerate(pictures):
            put(source / f"{index}.png", encoded(image))
    else:
        source = tmp_path / "set.parquet"
        Dataset.from_dict({"image": pictures}, features=Features({"image": Image()})).to_parquet(source)
    options = ("--method", "filt", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm, "--filter-fraction", 0.3)
    done = run_purify(source, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "Energy threshold" in done.stderr
    if kind == "folder":
        after = [PILImage.open(tmp_path / f"out/{index}.png") for index in range(10)]
    else:
        after = load_dataset(str(tmp_path / "out"), split="train")["image"][:]
    changed = [i for i in range(10) if np.array(after[i]).tobytes() != np.array(pictures[i]).tobytes()]
    energies = PureGen(checkpoint=tiny_checkpoint).energy(pictures)
    assert changed == sorted(energies.topk(3).indices.tolist())


def test_adaptive_says_how_many_images_resist(run_purify, tiny_ddpm, tmp_path):
    for seed in range(5):
        put(tmp_path / f"set/{seed}.png", encoded(picture(seed, size=(32, 32))))
    options = ("--method", "adaptive", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm, "--energy-threshold", -1e6)
    done = run_purify(tmp_path / "set", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "Still suspicious: 5 images" in done.stderr


def test_an_option_that_the_method_does_not_use_is_an_error(run_purify, tmp_path):
    put(tmp_path / "set/a.png", encoded(picture(0)))
    done = run_purify(tmp_path / "set", tmp_path / "out", "--method", "ebm", "--ddpm-steps", 5)
    assert done.exit_code == 1
    assert "does not use `ddpm_steps`" in done.stderr

"""Work of more than an hour is asked about on a terminal, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import typer
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from puregen_transforms.cli import consent
from puregen_transforms.cli.main import app as puregen
from puregen_transforms.cli.purify import purify
from puregen_transforms.detection import search_time
from puregen_transforms.whole_sets import cheaper
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from tests.cli.files import encoded, picture, put, tree
from tests.cli.terminal import Terminal, run_on_terminal

app = typer.Typer()
app.command()(purify)


@pytest.fixture(autouse=True)
def all_work_is_long(monkeypatch):
    monkeypatch.setattr(consent, "ASKED_FROM", 0.0)


@pytest.fixture
def source(tmp_path):
    for number in range(4):
        put(tmp_path / f"in/{number}.png", encoded(picture(number)))
    return tmp_path / "in"


@pytest.fixture
def purify_on_terminal(source, tmp_path, tiny_checkpoint, monkeypatch):
    def run(*options, typed=""):
        quick = ("--steps", 2, "--batch-size", 4, "--dtype", "float32", "--device", "cpu")  # as four images are timed
        words = [source, tmp_path / "out", "--checkpoint", tiny_checkpoint, *quick, *options]
        return run_on_terminal(app, *words, typed=typed, monkeypatch=monkeypatch)

    return run


def test_no_leaves_everything_as_it_was(purify_on_terminal, tmp_path):
    code, shown = purify_on_terminal(typed="n\n")
    assert code == 1
    assert "Estimate: " in shown
    assert "This will take about 1 s. Begin? [y/N]" in shown
    assert "with --yes it begins at once" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_no_to_the_rest_keeps_what_is_finished_and_says_how_to_go_on(purify_on_terminal, tmp_path, monkeypatch):
    add = UnfinishedCopy.add

    def interrupt(self, record):
        add(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedCopy, "add", interrupt)
        assert purify_on_terminal("--part-rows", 2, "--yes")[0] != 0
    before = tree(tmp_path / "out.unfinished")
    code, shown = purify_on_terminal("--part-rows", 2, typed="n\n")
    assert code == 1
    assert " for 2 images of about 13x13 pixels." in shown
    assert "1 finished parts are kept" in shown
    assert "the same command goes on from there" in shown
    assert tree(tmp_path / "out.unfinished") == before
    assert purify_on_terminal("--part-rows", 2, typed="y\n")[0] == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_yes_on_the_command_line_asks_nothing(purify_on_terminal, tmp_path):
    code, shown = purify_on_terminal("--yes")
    assert code == 0
    assert "Begin?" not in shown
    assert (tmp_path / "out").is_dir()


def test_short_work_asks_nothing(purify_on_terminal, monkeypatch):
    monkeypatch.setattr(consent, "ASKED_FROM", 3600.0)
    code, shown = purify_on_terminal()
    assert code == 0
    assert "Begin?" not in shown


def test_without_a_terminal_nothing_is_asked(run_purify, source, tmp_path):
    done = run_purify(source, tmp_path / "out", "--batch-size", 4)
    assert done.exit_code == 0
    assert "Begin?" not in done.output


def test_the_question_comes_before_the_first_pass(purify_on_terminal, tiny_ddpm, tmp_path):
    code, shown = purify_on_terminal("--method", "filt", "--ddpm-checkpoint", tiny_ddpm, typed="n\n")
    assert code == 1
    assert "First pass" not in shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["stdin", "stderr"])
def test_half_a_terminal_is_none(monkeypatch, missing):
    terminal = Terminal()
    with Path(os.devnull).open("r+") as nothing:
        for name in ("stdin", "stderr"):
            monkeypatch.setattr(sys, name, nothing if name == missing else getattr(terminal, name))
        consent.ask_before(1e6, yes=False)
    assert terminal.close() == ""


def test_a_process_of_a_launcher_asks_nothing(monkeypatch):
    terminal = Terminal()
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, getattr(terminal, name))
    monkeypatch.setenv("WORLD_SIZE", "2")
    consent.ask_before(1e6, yes=False)
    assert terminal.close() == ""


def test_a_cheaper_way_is_said_before_the_question(purify_on_terminal, monkeypatch, tiny_ddpm, tmp_path):
    monkeypatch.setattr(cheaper, "NAMED_FROM", 0.0)
    options = ("--method", "naive", "--ddpm-checkpoint", tiny_ddpm, "--steps", 2000)
    _, shown = purify_on_terminal(*options, typed="n\n")
    sentence, question = shown.index("Cheaper: a single call of the diffusion network"), shown.index("Begin?")
    assert sentence < question
    assert "--method ddpm --ddpm-solver ddim --ddpm-inference-steps 1" in shown
    assert "leaves more of a trigger" in shown


class TestSearches:
    @pytest.fixture
    def table(self, images, tmp_path, monkeypatch):
        monkeypatch.setattr(search_time, "TIMED_PIXELS", 2 * 32 * 32)
        monkeypatch.setattr(search_time, "SHORT", 1)
        pictures = [PILImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:24]]
        features = Features({"image": Image(), "label": ClassLabel(names=["cat", "dog"])})
        path = tmp_path / "set.parquet"
        Dataset.from_dict({"image": pictures, "label": [0, 1] * 12}, features).to_parquet(path)
        return path

    @pytest.fixture
    def answered(self, tmp_path, monkeypatch):
        def run(*words, typed):
            monkeypatch.chdir(tmp_path)
            return run_on_terminal(puregen, *words, "--device", "cpu", typed=typed, monkeypatch=monkeypatch)

        return run

    @pytest.mark.parametrize(
        ("words", "parts"),
        [
            (("detect", "unusual-energies", "set.parquet"), ("measure energies",)),
            (("detect", "set.parquet"), ("train the classifier", "measure energies")),
            (("inspect", "set.parquet", "--budget", "2m"), ("measure energies",)),
            (("clean", "set.parquet", "out.parquet", "--budget", "2m"), ("measure energies",)),
        ],
        ids=["one detector", "detect", "inspect", "clean"],
    )
    def test_are_asked_about_before_they_begin(self, table, answered, tmp_path, words, parts):
        code, shown = answered(*words, typed="n\n")
        assert code == 1
        sentence, question = shown.index("Estimate: at least "), shown.index("Begin?")
        assert sentence < question
        for part in parts:
            assert f" s to {part}" in shown
        assert [path.name for path in tmp_path.iterdir()] == ["set.parquet"]

    def test_that_are_begun_go_on_without_a_question(self, table, answered, tmp_path):
        (tmp_path / "detect-report/state").mkdir(parents=True)
        code, shown = answered("detect", "unusual-energies", table, typed="")
        assert code == 0
        assert "An earlier run has done some of it." in shown
        assert "Begin?" not in shown

    def test_a_plan_counts_the_purification_and_says_what_is_cheaper(self, table, answered, monkeypatch):
        monkeypatch.setattr("puregen_transforms.cleaning.plan.NAMED_FROM", 0.0)
        monkeypatch.setattr(
            "puregen_transforms.cleaning.plan.time_of", lambda *given, **options: search_time.SearchTime()
        )
        words = ("clean", table, "out.parquet", "--budget", "2m", "--others", "purify")
        code, shown = answered(*words, typed="n\n")
        assert code == 1
        assert "Cheaper: with --others keep" in shown
        assert "Begin?" in shown, "for the purification"
        code, shown = answered(*words, "--dry-run", typed="")
        assert code == 0
        assert "Begin?" not in shown

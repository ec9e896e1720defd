from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.purify import purify

app = typer.Typer()
app.command()(purify)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run_purify(tiny_checkpoint):
    def run(source, destination, *options):
        settings = ("--checkpoint", tiny_checkpoint, "--steps", 2, "--device", "cpu", "--dtype", "float32", *options)
        return CliRunner().invoke(app, [str(argument) for argument in (source, destination, *settings)])

    return run


@pytest.fixture
def purifier(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", dtype="float32")

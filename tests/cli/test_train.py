"""`puregen train`: presets, options that come from dataclasses, and runs of two updates."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.hub.cards import load_record
from puregen_transforms.models.config import UNetConfig
from puregen_transforms.train.checkpoint import load_state
from puregen_transforms.train.config import DDPM_PRESETS, EBM_PRESETS, DDPMTraining, EBMTraining

ASSETS = "puregen_transforms/assets/demo/cifar10-test-200.parquet"


def train(*arguments):
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_presets_are_what_the_packaged_networks_were_trained_with():
    record = load_record("ebm-imagenet32-nf64")
    network, training = EBM_PRESETS["cpu"]
    assert network.to_dict() == record["config"]
    assert json.loads(json.dumps(training.to_dict())).items() >= record["training"]["settings"].items()

    record = load_record("ddpm-imagenet32-32-128")
    network, training = DDPM_PRESETS["cpu"]
    assert network.to_diffusers().items() <= record["config"].items()
    assert training == DDPMTraining(**record["training"]["settings"])


def test_the_paper_preset_is_the_default_of_the_dataclasses():
    assert EBM_PRESETS["paper"][1] == EBMTraining()
    assert DDPM_PRESETS["paper"] == (UNetConfig(), DDPMTraining())


@pytest.mark.parametrize("preset", ["paper", "cpu"])
def test_an_ebm_run_has_the_settings_of_its_preset_but_for_the_options_given(tmp_path, preset):
    given = {"updates": 2, "langevin_steps": 1, "batch_size": 2, "bank_size": 2}
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    train("ebm", ASSETS, tmp_path, "--preset", preset, "--nf", 2, "--cpu", *options)
    _, record = load_state(tmp_path)
    expected = EBM_PRESETS[preset][1].to_dict() | given
    assert record["training"] == json.loads(json.dumps(expected)), "milestones of 1/3 included"
    assert record["network"]["nf"] == 2


def test_a_ddpm_run_takes_lists_of_numbers(tmp_path):
    small = ["--widths", "8,8", "--attention", "", "--groups", 4, "--layers", 1, "--updates", 2, "--batch-size", 2]
    train("ddpm", ASSETS, tmp_path, "--cpu", "--dtype", "float32", *small)
    _, record = load_state(tmp_path)
    assert record["network"] == {"widths": [8, 8], "attention": [], "groups": 4, "layers": 1, "image_size": 32}
    assert record["training"]["warmup"] == DDPMTraining.warmup


def test_a_ddpm_of_few_images_says_so_in_its_record(tmp_path):
    small = ["--widths", "8,8", "--attention", "", "--groups", 4, "--layers", 1, "--updates", 2, "--batch-size", 2]
    done = train("ddpm", ASSETS, tmp_path, "--cpu", "--dtype", "float32", *small, "--sparse", 0.2, "--copies", 4)
    assert "200 images; training" in done.stderr, "4 of 20 images of each class, five times"
    _, record = load_state(tmp_path)
    assert (record["training"]["sparse"], record["training"]["copies"]) == (0.2, 4)


def test_rate_drops_replace_those_of_the_preset(tmp_path):
    small = ["--nf", 2, "--updates", 2, "--langevin-steps", 1, "--batch-size", 2, "--bank-size", 2, "--cpu"]
    train("ebm", ASSETS, tmp_path, *small, "--rate-drops", "0.5:0.3,0.8:0.1")
    _, record = load_state(tmp_path)
    assert (record["training"]["milestones"], record["training"]["rate_factors"]) == ([0.5, 0.8], [0.3, 0.1])

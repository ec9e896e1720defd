"""Denoiser checkpoints: what is written is read, and what cannot be one is refused before it is built."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from puregen_transforms import PureGen
from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
from puregen_transforms.hub.ebm import resolve_ebm
from puregen_transforms.hub.publish import pull_checkpoint
from puregen_transforms.models.config import DenoiserConfig
from puregen_transforms.models.saving import save_denoiser


@pytest.fixture
def folder(tiny_denoiser, tmp_path):
    shutil.copytree(tiny_denoiser, tmp_path / "denoiser")
    return tmp_path / "denoiser"


def rewrite(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_what_is_written_is_read(folder):
    checkpoint = resolve_denoiser(folder)
    model = load_denoiser(checkpoint)
    assert checkpoint.config == model.config == DenoiserConfig(widths=(8, 12), blocks=1)
    stored = load_file(folder / "denoiser.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())
    assert not model.training


def test_half_precision_is_read_as_float32(folder):
    model = load_denoiser(resolve_denoiser(folder))
    save_denoiser(model, folder, dtype=torch.float16)
    half = load_denoiser(resolve_denoiser(folder))
    assert half.head.weight.dtype == torch.float32
    assert torch.equal(half.head.weight, model.head.weight.half().float())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": [8, -12]}, "positive integers"),
        ({"widths": ["8", 12]}, "positive integers"),
        ({"widths": 8}, "widths of a denoiser"),
        ({"blocks": 1.5}, "positive integers"),
        ({"blocks": 16384}, "than there are|of 16384 blocks"),
        ({"widths": [16384, 12]}, "up to 16384 channels"),
        ({"widths": [8, 8]}, "wrong shape"),
        ({"nf": 3}, "Check that this is a denoiser"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, values, message):
    rewrite(folder, **values)
    with pytest.raises(ValueError, match=message):
        load_denoiser(resolve_denoiser(folder))


def test_a_damaged_or_infinite_file_is_refused(folder):
    weights = load_file(folder / "denoiser.safetensors")
    save_file(
        {**weights, "head.bias": torch.full_like(weights["head.bias"], float("nan"))}, folder / "denoiser.safetensors"
    )
    with pytest.raises(ValueError, match=r"head\.bias"):
        load_denoiser(resolve_denoiser(folder))
    (folder / "denoiser.safetensors").write_bytes((folder / "denoiser.safetensors").read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated or damaged"):
        resolve_denoiser(folder)


def test_another_kind_is_told_where_it_belongs(folder, tiny_checkpoint):
    with pytest.raises(ValueError, match="denoiser_checkpoint"):
        resolve_ebm(folder)
    with pytest.raises(ValueError, match="`checkpoint="):
        PureGen("onestep", denoiser_checkpoint=tiny_checkpoint)(torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_checkpoint_is_copied(folder, tmp_path):
    copy = pull_checkpoint(str(folder), tmp_path / "copy")
    assert {path.name for path in copy.iterdir()} == {"config.json", "denoiser.safetensors"}
    assert resolve_denoiser(copy).sha256 == resolve_denoiser(folder).sha256

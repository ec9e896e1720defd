"""Fixtures that every test room uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from puregen_transforms.models.ebm import EBM, EBMConfig

SHARED_DATA = Path(__file__).parents[2] / "shared/data"


def make_checkpoint(folder: Path, *, seed: int = 0, nf: int = 4, gain: float = 0.01) -> Path:
    """A tiny network in the official layout whose Langevin steps move images visibly but gently."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EBM(EBMConfig(nf=nf))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights["l5.weight"] *= gain
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def tiny_ddpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A noise predictor with random weights, written by diffusers itself."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    folder = tmp_path_factory.mktemp("ddpm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=32,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
        )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images() -> Tensor:
    """(64, 3, 32, 32) uint8: the first of the packaged demo images."""
    from puregen_transforms.data.demo import load_demo

    return load_demo().images[:64]


@pytest.fixture(scope="session")
def cifar10_test() -> Path:
    """The CIFAR-10 test set beside the project, where it is there."""
    path = SHARED_DATA / "cifar10-jpeg-test.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name}, which is not part of the project")
    return path


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch's threads, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

"""Fixtures that every test room uses, the slow tier, and the processes that tests run in."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from puregen_transforms.models.config import DenoiserConfig, EBMConfig
from puregen_transforms.models.denoiser import Denoiser
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.saving import save_denoiser

SHARED_DATA = Path(__file__).parents[2] / "shared/data"

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at once: each process, and what it starts, keeps to one core
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--fuzz", type=int, default=0, help="cases of each kind in tests/hostile/test_fuzz.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--runslow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: runs with --runslow"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process per core, up to four; none beside the first for a few files, which start faster alone."""
    few = all(Path(name.split("::")[0]).is_file() for name in config.args)
    return 0 if few else min(4, os.cpu_count() or 1)


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


@pytest.fixture(autouse=True)
def no_accelerator_left() -> Iterator[None]:
    """Each test starts without Accelerate's state, of which a process has one: its precision cannot be changed."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


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
def tiny_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser with random weights."""
    folder = tmp_path_factory.mktemp("denoiser")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Denoiser(DenoiserConfig(widths=(8, 12), blocks=1))
        torch.nn.init.normal_(model.tail.weight, std=0.1)
    save_denoiser(model, folder)
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

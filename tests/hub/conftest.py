"""Fixtures: a loopback Hub that the real client talks to, and tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from tests.hub.loopback import LoopbackHub
from tests.hub.tiny import Files, pack


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A fresh server and cache. The client reads its environment at import, so its constants are set."""
    server = LoopbackHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    yield server
    server.close()


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What HF_HUB_OFFLINE=1 does."""
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def model() -> EBM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EBM(EBMConfig(nf=4))


@pytest.fixture(scope="session")
def files(model: EBM) -> Files:
    """A sound checkpoint with the two keys of the official configuration."""
    return pack(dict(model.state_dict()))

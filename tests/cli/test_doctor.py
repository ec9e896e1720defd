from __future__ import annotations

import http.server
import socket
import sys
import threading
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from puregen_transforms.cli.doctor import VARIABLES, doctor

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def known_settings(monkeypatch, tmp_path):
    """No setting of the machine at hand, no network beyond it."""
    for name in (*VARIABLES, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.fixture
def with_checkpoint(tiny_checkpoint, tiny_ddpm, monkeypatch):
    monkeypatch.setattr("puregen_transforms.hub.ebm.DEFAULT_EBM", str(tiny_checkpoint))
    monkeypatch.setattr("puregen_transforms.hub.ddpm.DEFAULT_DDPM", str(tiny_ddpm))


def run():
    result = CliRunner().invoke(app)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def line(result, title):
    (found,) = [text for text in result.stdout.splitlines() if text.startswith(f"{title}:")]
    return found.partition(":")[2].strip()


@pytest.mark.usefixtures("with_checkpoint")
class TestHealthy:
    def test_versions_devices_and_verdict(self, tiny_checkpoint, tiny_ddpm):
        result = run()
        assert result.exit_code == 0, result.output
        for name in ("torch", "torchvision", "datasets", "huggingface_hub", "accelerate", "diffusers", "safetensors"):
            assert line(result, name) == metadata.version(name)
        assert line(result, "python").startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
        assert "bfloat16" in line(result, "cpu")
        assert "float" in line(result, "PureGen's choice")
        assert str(tiny_checkpoint) in line(result, "checkpoint")
        assert str(tiny_ddpm) in line(result, "ddpm checkpoint")
        assert "ms" in line(result, "trial")
        assert result.stdout.splitlines()[-1] == "PureGen can run here."

    def test_unreachable_hub_is_a_finding(self):
        result = run()
        assert result.exit_code == 0
        assert line(result, "Hub").startswith("http://127.0.0.1:")
        assert "cannot be reached" in line(result, "Hub")

    def test_silent_hub_is_given_up(self, monkeypatch):
        monkeypatch.setattr("puregen_transforms.cli.doctor.HUB_TIMEOUT", 0.2)
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            result = run()
        assert result.exit_code == 0
        assert "answers" not in line(result, "Hub")

    def test_reachable_hub(self, monkeypatch):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            assert "answers in" in line(run(), "Hub")
        finally:
            server.shutdown()
            server.server_close()

    def test_offline_tries_nothing(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        result = run()
        assert result.exit_code == 0
        assert "not tried" in line(result, "Hub")
        assert line(result, "HF_HUB_OFFLINE") == "1"

    def test_passwords_are_not_shown(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
        monkeypatch.setenv("HTTP_PROXY", "me:secret@127.0.0.1:9")
        result = run()
        assert "secret" not in result.output
        assert line(result, "HTTPS_PROXY") == "http://***@127.0.0.1:9"
        assert line(result, "HTTP_PROXY") == "***@127.0.0.1:9"
        assert line(result, "HF_TOKEN") == "set (not shown)"

    def test_missing_optional_package_is_a_finding(self, monkeypatch):
        version = metadata.version

        def without_diffusers(name):
            if name == "diffusers":
                raise metadata.PackageNotFoundError(name)
            return version(name)

        monkeypatch.setattr("importlib.metadata.version", without_diffusers)
        result = run()
        assert result.exit_code == 0
        assert line(result, "diffusers") == "not installed"

    def test_cache_that_is_not_there_yet(self, tmp_path):
        assert str(tmp_path / "hub") in line(run(), "Hub cache")
        assert "GB free; not made yet" in line(run(), "Hub cache")
        assert not (tmp_path / "hub").exists()


class TestBroken:
    def test_no_checkpoint(self, monkeypatch, tmp_path):
        monkeypatch.setattr("puregen_transforms.hub.ebm.DEFAULT_EBM", str(tmp_path))
        result = run()
        assert result.exit_code == 1
        assert line(result, "checkpoint").startswith("FAILED: FileNotFoundError")
        assert "checkpoint, trial" in result.stderr

    def test_damaged_weights(self, monkeypatch, tmp_path, tiny_checkpoint):
        (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes((tiny_checkpoint / "model.safetensors").read_bytes()[:1000])
        monkeypatch.setattr("puregen_transforms.hub.ebm.DEFAULT_EBM", str(tmp_path))
        result = run()
        assert result.exit_code == 1
        assert "model.safetensors" in line(result, "checkpoint")

    @pytest.mark.usefixtures("with_checkpoint")
    def test_torchvision_that_cannot_be_imported(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "puregen_transforms.transforms.puregen", None)
        result = run()
        assert result.exit_code == 1
        assert line(result, "trial").startswith("FAILED")
        assert line(result, "HF_TOKEN") == "not set"

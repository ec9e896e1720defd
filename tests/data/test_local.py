"""Mistyped sources: the disk is looked at first, and the Hub is asked once."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from puregen_transforms.data.local import check_path
from puregen_transforms.data.sources import open_source


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/photos").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that has nothing; the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if "datasets" in self.path:  # the client has a question of its own, too
                asked.append(self.path)
            self.send_response(401)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    point_to(monkeypatch, tmp_path, server.server_port)
    yield asked
    server.shutdown()
    server.server_close()


def point_to(monkeypatch, tmp_path, port):
    for place in ("huggingface_hub.constants.ENDPOINT", "datasets.config.HF_ENDPOINT"):
        monkeypatch.setattr(place, f"http://127.0.0.1:{port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/photoos", r"nothing at 'data/photoos'\. Is it 'data/photos'\?"),
        ("data/animals", r"The folder 'data' is there, and holds 'photos'\. \(A name on the Hub"),
        ("data/photos/cats", r"The folder 'data/photos' is there, and holds nothing\."),
        ("dota/photos/cats", r"Is it 'data'\?"),
        ("photos.parquet", r"nothing at 'photos\.parquet'"),
        ("./photos", r"nothing at '\./photos'"),
        ("../photos", r"nothing at '\.\./photos'"),
        ("~/no such folder", "nothing at '~/no such folder'"),
        ("my photos", "nothing at 'my photos'"),
        ("photos/", "nothing at 'photos/'"),
    ],
)
def test_what_can_only_be_a_path_is_not_asked_for(here, hub, source, message):
    with pytest.raises(FileNotFoundError, match=message):
        open_source(source)
    assert hub == []


@pytest.mark.parametrize("source", ["data", "data/photos", "cifar10", "uoft-cs/cifar10", "owner/set-v1.5"])
def test_folders_and_names_pass(here, source):
    check_path(source)


@pytest.mark.parametrize("source", ["nobody/nothing", "dota"])
def test_a_name_is_asked_for_once(here, hub, source):
    with pytest.raises(FileNotFoundError, match=f"nothing at '{source}' here, and as a name: the Hub has no data set"):
        open_source(source)
    assert hub == [f"/api/datasets/{source}"]


def test_a_hub_that_cannot_be_reached_is_not_tried_again(here, monkeypatch, tmp_path, caplog):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    point_to(monkeypatch, tmp_path, port)
    with pytest.raises(FileNotFoundError, match=r"the Hub cannot be reached .* Is it 'data'\?"):
        open_source("dota")
    assert "Retry" not in caplog.text


@pytest.mark.parametrize(
    "command", [["purify", "./nothing", "out"], ["inspect", "./nothing"], ["train", "ebm", "./nothing", "out"]]
)
def test_a_command_says_so_before_it_loads_anything(here, command):
    code = (
        "import sys; from typer.testing import CliRunner; from puregen_transforms.cli.main import app; "
        f"result = CliRunner().invoke(app, {command!r}); print(result.stderr, result.exit_code); "
        "print({'torch', 'datasets', 'accelerate'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "there is nothing at './nothing'. 1" in " ".join(done.stdout.split())
    assert done.stdout.endswith("set()\n")

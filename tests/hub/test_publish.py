"""Saving, pushing and pulling, over a loopback Hub that the real client talks to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from puregen_transforms.cli.hub import app
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_DDPM, DEFAULT_DENOISER, DEFAULT_EBM
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.hub.publish import pull_checkpoint, push_checkpoint
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.saving import save_ebm
from tests.hub.loopback import TOKEN, LoopbackHub
from tests.hub.tiny import Files, names, put

Command = Callable[..., Any]
REPO = "someone/new"
CARD = "---\nlicense: apache-2.0\n---\n# A network\n"


@pytest.fixture
def folder(model: EBM, tmp_path: Path) -> Path:
    save_ebm(model, tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text(CARD)
    return tmp_path / "run"


def test_save_then_load(tmp_path: Path) -> None:
    model = EBM(EBMConfig(nf=4, patch_size=2, image_size=64)).bfloat16()
    save_ebm(model, tmp_path / "run")
    assert names(tmp_path / "run") == ["config.json", "model.safetensors"]
    loaded = load_ebm(resolve_ebm(tmp_path / "run"))
    assert loaded.config == model.config
    assert all(torch.equal(a.float(), b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_save_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = EBM(EBMConfig(nf=4))
    torch.nn.init.constant_(model.l5.weight, float("inf"))
    with pytest.raises(ValueError, match=r"l5.weight are not"):
        save_ebm(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_round_trip_is_byte_identical(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    (folder / "record.json").write_text("{}")
    (folder / "state.safetensors").write_text("of the optimizer")
    address = push_checkpoint(folder, REPO, token=TOKEN, message="First")
    commit = hub.repositories[REPO].references["main"]
    assert address == f"{hub.url}/{REPO}/commit/{commit}"
    stored = hub.repositories[REPO].commits[commit]
    uploaded = ["README.md", "config.json", "model.safetensors", "record.json"]
    assert sorted(stored) == [".gitattributes", *uploaded]
    assert all(stored[name] == (folder / name).read_bytes() for name in uploaded)

    pulled = pull_checkpoint(REPO, tmp_path / "deep" / "copy")
    assert names(pulled) == ["config.json", "model.safetensors"]
    assert all((pulled / name).read_bytes() == stored[name] for name in names(pulled))
    assert names(pulled.parent) == ["copy"]


def test_push_to_a_branch_of_a_private_repository(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    push_checkpoint(folder, f"{REPO}@v2", token=TOKEN, private=True)
    repository = hub.repositories[REPO]
    assert repository.private
    assert "model.safetensors" not in repository.commits[repository.references["main"]]
    pull_checkpoint(f"{REPO}@v2", tmp_path / "copy", token=TOKEN)


def test_private_push_to_a_public_repository_is_refused(hub: LoopbackHub, folder: Path) -> None:
    repository = hub.repository(REPO)
    with pytest.raises(PermissionError, match="but it is public; nothing was uploaded"):
        push_checkpoint(folder, REPO, token=TOKEN, private=True)
    assert len(repository.commits) == 1


def test_broken_folder_is_refused_before_any_request(hub: LoopbackHub, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match="truncated or damaged"):
        push_checkpoint(folder, REPO, token=TOKEN)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing"):
        push_checkpoint(folder, REPO, token=TOKEN)
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint folder"):
        push_checkpoint(folder / "none", REPO, token=TOKEN)
    assert hub.log == []


def test_push_without_login(hub: LoopbackHub, folder: Path) -> None:
    with pytest.raises(PermissionError, match="run `hf auth login` or set HF_TOKEN"):
        push_checkpoint(folder, REPO)


def test_push_to_another_owner(hub: LoopbackHub, folder: Path) -> None:
    hub.forbidden_owners.add("other")
    with pytest.raises(PermissionError, match="rights to create"):
        push_checkpoint(folder, "other/name", token=TOKEN)


def test_push_with_a_bad_name_or_card(hub: LoopbackHub, folder: Path) -> None:
    with pytest.raises(ValueError, match="Expected a Hub repository id"):
        push_checkpoint(folder, "a/b/c", token=TOKEN)
    (folder / "README.md").write_text("---\nlicense: unheard-of\n---\n")
    with pytest.raises(ValueError, match="unknown license"):
        push_checkpoint(folder, REPO, token=TOKEN)


def test_pull_takes_the_newest_of_main(hub: LoopbackHub, files: Files, tmp_path: Path) -> None:
    repository = hub.repository(REPO, files)
    resolve_ebm(REPO)
    repository.commit({**files, "config.json": b'{"image_size": 64}'})
    pull_checkpoint(REPO, tmp_path / "copy")
    assert resolve_ebm(tmp_path / "copy").config.image_size == 64


def test_pull_refuses_to_overwrite(hub: LoopbackHub, files: Files, tmp_path: Path) -> None:
    hub.repository(REPO, files)
    with pytest.raises(FileExistsError, match="Expected a new folder"):
        pull_checkpoint(REPO, put(tmp_path / "here", {"mine": b""}))
    assert names(tmp_path / "here") == ["mine"]
    assert hub.log == []


def test_failed_pull_leaves_nothing(
    hub: LoopbackHub, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put(tmp_path / "source", files)
    hub.repository("someone/bad", {**files, "model.safetensors": b"no"})
    with pytest.raises(ValueError, match="truncated or damaged"):
        pull_checkpoint("someone/bad", tmp_path / "out" / "copy")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        pull_checkpoint(source, tmp_path / "out" / "copy")
    assert names(tmp_path / "out") == []


# The command.


@pytest.fixture
def puregen_hub() -> Command:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command_push_and_pull(
    hub: LoopbackHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puregen_hub: Command
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pushed = puregen_hub("push", folder, f"{REPO}@v1", "--private", "--message", "One")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.strip() == f"{hub.url}/{REPO}/commit/{hub.repositories[REPO].references['v1']}"
    pulled = puregen_hub("pull", f"{REPO}@v1", tmp_path / "copy")
    assert pulled.exit_code == 0, pulled.output
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull", "no/such", "out"], "Error: Expected a Hub repository 'no/such'"),
        (["pull", "nothing", "out"], "Error: Expected a checkpoint, but got 'nothing'"),
        (["push", "nowhere", REPO], "Error: Expected a checkpoint folder"),
        (["pull", f"{REPO}@", "out"], "Error: Expected a branch, tag or commit after the @ of 'someone/new@'"),
        (["push", "nowhere", f"{REPO}@"], "Error: Expected a branch, tag or commit after the @ of 'someone/new@'"),
    ],
)
def test_command_errors_are_messages(
    hub: LoopbackHub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    puregen_hub: Command,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = puregen_hub(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_command_list(puregen_hub: Command) -> None:
    result = puregen_hub("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, entry.kind.upper()] for name, entry in CATALOGUE.items()]
    assert [line.split()[0] for line in lines if line.endswith("(default)")] == [
        DEFAULT_EBM,
        DEFAULT_DDPM,
        DEFAULT_DENOISER,
    ]

"""`owner/name@revision`, wherever a checkpoint is named, over a loopback Hub."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.cli.train import _load_initial_ebm
from puregen_transforms.detection import find_outliers, find_patterns
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM
from puregen_transforms.hub.ebm import resolve_ebm
from puregen_transforms.hub.references import Place, locate
from puregen_transforms.inspection.audit import inspect_images
from puregen_transforms.models.ebm import EBMConfig
from tests.hub.loopback import LoopbackHub
from tests.hub.tiny import Files, put

REPO = "someone/ebm"


@pytest.mark.parametrize("place", ["a folder", "the package"])
def test_revision_where_there_is_none(hub: LoopbackHub, files: Files, tmp_path: Path, place: str) -> None:
    reference = DEFAULT_EBM if place == "the package" else put(tmp_path / "a", files)
    with pytest.raises(ValueError, match=f"Expected no revision for '{reference}', .* got 'main'. Leave out '@main'"):
        resolve_ebm(f"{reference}@main")
    assert hub.log == []


@pytest.mark.parametrize("revision", ["", " ", "a b", "../../refs/heads/main", "v1:x"])
@pytest.mark.parametrize("name", [REPO, "puregen-ebm-cinic10-imagenet"])
def test_impossible_revision(hub: LoopbackHub, name: str, revision: str) -> None:
    with pytest.raises(ValueError, match=r"Expected a branch, tag or commit after the @ of .*owner/name@revision"):
        resolve_ebm(f"{name}@{revision}")
    assert hub.log == []


def test_revision_with_signs_of_its_own(hub: LoopbackHub, files: Files) -> None:
    commit = hub.repository(REPO).commit(files, "refs/pr/1@x")
    assert resolve_ebm(f"{REPO}@{commit}").revision == commit
    assert locate(f"{REPO}@refs/pr/1@x", ("ebm",)) == Place(repo_id=REPO, revision="refs/pr/1@x")


def test_a_folder_with_an_at_sign_is_a_folder(
    hub: LoopbackHub, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("someone/ebm@v1", "run@2", "@"):
        put(tmp_path / name, files)
        assert resolve_ebm(name).weights == Path(name) / "model.safetensors"
        assert resolve_ebm(Path(name)).revision is None
    assert hub.log == []


def test_a_mistyped_folder_is_not_asked_of_the_hub(
    hub: LoopbackHub, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.repository(REPO, files).references["main"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    with pytest.raises(
        ValueError, match="folder 'someone' is here and has no folder 'ebm'.*write \"someone/ebm@main\""
    ):
        resolve_ebm(REPO)
    assert hub.log == []
    assert resolve_ebm(f"{REPO}@main").revision == commit


def test_revision_of_a_catalogue_name(hub: LoopbackHub, files: Files) -> None:
    name = "puregen-ebm-cinic10-imagenet"
    commit = hub.repository(str(CATALOGUE[name].repo_id)).commit(files, "side")
    found = resolve_ebm(f"{name}@side")
    assert (found.reference, found.revision) == (f"{name}@side", commit)


def test_revision_wherever_a_checkpoint_is_named(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO).commit(files, "side")
    sha256 = hashlib.sha256(files["model.safetensors"]).hexdigest()
    purify = PureGen(checkpoint=f"{REPO}@side", ebm_steps=1, seed=0)
    assert hub.log == [], "constructing asks nothing"
    assert purify.weights == {"ebm": sha256}
    again = pickle.loads(pickle.dumps(PureGen.from_dict(purify.to_dict())))
    assert again.digest == purify.digest
    images = torch.randint(256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = inspect_images(images, checkpoint=f"{REPO}@side", sample=2, device="cpu").settings
    assert (settings["checkpoint"], settings["weights_sha256"]) == (f"{REPO}@side", sha256)
    assert find_outliers(images, checkpoint=f"{REPO}@side", device="cpu").shape == (60,)
    _, origin = _load_initial_ebm(f"{REPO}@side", EBMConfig(nf=4))
    assert origin == f"{REPO}@side (sha256 {sha256})"
    with pytest.raises(FileNotFoundError, match="Expected revision 'v9'"):
        find_patterns(images, checkpoint=f"{REPO}@v9", device="cpu")

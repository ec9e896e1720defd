"""From a reference to a network, over a loopback Hub that the real client talks to."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, constants
from torch import Tensor, nn

from puregen_transforms._files import hash_file
from puregen_transforms.hub import catalogue, references
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM, CatalogueEntry
from puregen_transforms.hub.checkpoints import find_checkpoint
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
from puregen_transforms.hub.ebm import EBMCheckpoint, load_ebm, resolve_ebm
from puregen_transforms.hub.layout import CheckpointFiles
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from tests.hub.loopback import TOKEN, LoopbackHub
from tests.hub.tiny import Files, pack, put

REPO = "someone/ebm"


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# From the Hub.


def test_download(hub: LoopbackHub, files: Files, model: EBM) -> None:
    commit = hub.repository(REPO, {**files, "pytorch_model.bin": b"never", "README.md": b"never"}).references["main"]
    checkpoint = resolve_ebm(REPO)
    assert checkpoint.reference == REPO
    assert checkpoint.revision == commit
    assert checkpoint.config == EBMConfig(nf=4)
    assert checkpoint.sha256 == hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert same_weights(load_ebm(checkpoint), model)
    assert sorted(hub.downloads()) == ["config.json", "model.safetensors"]


def test_cached_second_load_makes_no_request(hub: LoopbackHub, files: Files) -> None:
    repository = hub.repository(REPO, files)
    first = resolve_ebm(REPO)
    repository.commit({})
    hub.log.clear()
    for reference in (REPO, f"{REPO}@{first.revision}"):
        again = resolve_ebm(reference)
        load_ebm(again)
        assert again == replace(first, reference=reference)
    assert hub.log == []


def test_named_branch_costs_one_look_up_and_follows_it(hub: LoopbackHub, files: Files) -> None:
    repository = hub.repository(REPO, files)
    first = resolve_ebm(f"{REPO}@main")
    hub.log.clear()
    assert resolve_ebm(f"{REPO}@main") == first
    assert len(hub.log) == 1
    newer = repository.commit({**files, "config.json": b'{"nf": 4, "image_size": 64}'})
    moved = resolve_ebm(f"{REPO}@main")
    assert (moved.revision, moved.config.image_size) == (newer, 64)


@pytest.mark.parametrize("kind", ["branch", "tag", "commit"])
def test_revision(hub: LoopbackHub, files: Files, kind: str) -> None:
    repository = hub.repository(REPO)
    commit = repository.commit(files, "v1" if kind == "tag" else "side")
    revision = {"branch": "side", "tag": "v1", "commit": commit}[kind]
    assert resolve_ebm(f"{REPO}@{revision}").revision == commit


def test_both_files_come_from_one_commit(hub: LoopbackHub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.repository(REPO, files)
    answer, first = repository.find, repository.references["main"]

    def move_after_first_answer(revision: str) -> str | None:
        found = answer(revision)
        repository.references["main"] = repository.commit({"config.json": b"{}", "model.safetensors": b"other"}, "x")
        return found

    monkeypatch.setattr(repository, "find", move_after_first_answer)
    checkpoint = resolve_ebm(f"{REPO}@main")
    assert checkpoint.revision == first
    load_ebm(checkpoint)


def test_named_branch_while_the_hub_is_down(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files)
    first = resolve_ebm(REPO)
    hub.failing = True
    assert resolve_ebm(REPO) == first
    with pytest.warns(UserWarning, match=f"using the cached commit {first.revision} of 'main'") as caught:
        assert resolve_ebm(f"{REPO}@main") == replace(first, reference=f"{REPO}@main")
    assert caught[0].filename == __file__
    with pytest.raises(ConnectionError, match=r"The Hub failed .* try again later"):
        resolve_ebm(f"{REPO}@side")


def test_another_server_is_named_once(hub: LoopbackHub, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    hub.repository(REPO, files)
    for _ in range(2):
        resolve_ebm(f"{REPO}@main")
    assert [record.getMessage() for record in caplog.records if record.name.startswith("puregen_transforms")] == [
        f"Checkpoints come from {hub.url}, as HF_ENDPOINT says. It is trusted as the Hub is."
    ]


def test_unreachable_hub(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ConnectionError, match=r"127.0.0.1:9 failed \(.*refused\). Check the network, proxy and HF_ENDPOINT"
    ):
        resolve_ebm(REPO)


def test_interrupted_download_is_completed(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files)
    checkpoint = resolve_ebm(REPO)
    checkpoint.weights.resolve().unlink()
    checkpoint.weights.unlink()
    hub.log.clear()
    load_ebm(resolve_ebm(REPO))
    assert hub.downloads() == ["model.safetensors"]


def test_cache_dir(hub: LoopbackHub, files: Files, tmp_path: Path) -> None:
    hub.repository(REPO, files)
    assert tmp_path / "elsewhere" in resolve_ebm(REPO, cache_dir=tmp_path / "elsewhere").weights.parents


@pytest.mark.parametrize("switch", ["environment", "argument"])
@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_offline_hit(
    hub: LoopbackHub, files: Files, go_offline: Callable[[], None], switch: str, revision: str | None
) -> None:
    hub.repository(REPO, files)
    first = resolve_ebm(REPO)
    hub.log.clear()
    if switch == "environment":
        go_offline()
    revision = first.revision if revision == "commit" else revision
    reference = REPO if revision is None else f"{REPO}@{revision}"
    again = resolve_ebm(reference, local_files_only=switch == "argument")
    assert again == replace(first, reference=reference)
    assert hub.log == []


@pytest.mark.parametrize("switch", ["environment", "argument"])
def test_offline_miss(hub: LoopbackHub, files: Files, go_offline: Callable[[], None], switch: str) -> None:
    hub.repository(REPO, files)
    if switch == "environment":
        go_offline()
    name = "HF_HUB_OFFLINE" if switch == "environment" else "local_files_only"
    with pytest.raises(FileNotFoundError, match=f"someone/ebm.*in the cache, because .?{name}.*Load it once"):
        resolve_ebm(REPO, local_files_only=switch == "argument")
    assert hub.log == []


def test_missing_repository(hub: LoopbackHub) -> None:
    with pytest.raises(FileNotFoundError, match=r"'no/such'.*Check the spelling.*HF_TOKEN"):
        resolve_ebm("no/such")


def test_missing_revision(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files)
    with pytest.raises(FileNotFoundError, match=r"Expected revision 'v9' in Hub repository 'someone/ebm'"):
        resolve_ebm(f"{REPO}@v9")


def test_private_repository(hub: LoopbackHub, files: Files, model: EBM, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository(REPO, files, private=True)
    with pytest.raises(FileNotFoundError, match=r"if it is private, run `hf auth login` or set HF_TOKEN"):
        resolve_ebm(REPO)
    assert same_weights(load_ebm(resolve_ebm(REPO, token=TOKEN)), model)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    resolve_ebm(f"{REPO}@main")


def test_gated_repository(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files, gated=True)
    with pytest.raises(PermissionError, match=r"has to be asked for: open http://.*/someone/ebm in a browser"):
        resolve_ebm(REPO)
    load_ebm(resolve_ebm(REPO, token=TOKEN))


def test_pickles_are_refused_unread(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, {"config.json": files["config.json"], "pytorch_model.bin": b"x", "ebm.ckpt": b"x"})
    with pytest.raises(ValueError, match=r"only pickle files \(ebm.ckpt, pytorch_model.bin\).*save_file"):
        resolve_ebm(REPO)
    assert hub.downloads() == []


def test_missing_config_on_hub(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, {"model.safetensors": files["model.safetensors"]})
    with pytest.raises(FileNotFoundError, match=r"but config.json is missing; found: .*model.safetensors.*\"nf\": 128"):
        resolve_ebm(REPO)
    assert hub.downloads() == []


def test_short_download(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files)
    hub.short.add("model.safetensors")
    with pytest.raises(ConnectionError, match="try again"):
        resolve_ebm(REPO)
    hub.short.clear()
    load_ebm(resolve_ebm(REPO))


def test_damaged_cache_and_the_remedy_its_error_names(hub: LoopbackHub, files: Files) -> None:
    hub.repository(REPO, files)
    blob = resolve_ebm(REPO).weights.resolve()
    blob.write_bytes(files["model.safetensors"][:-50])
    with pytest.raises(ValueError, match="truncated or damaged") as caught:
        resolve_ebm(REPO)
    assert f"Delete {blob} and load again" in str(caught.value)
    blob.unlink()
    load_ebm(resolve_ebm(REPO))


def test_environment_variables_in_a_fresh_process(hub: LoopbackHub, files: Files, tmp_path: Path) -> None:
    hub.repository(REPO, files, private=True)
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "PATH": "",
    }
    code = f"from puregen_transforms.hub.ebm import *; print(load_ebm(resolve_ebm({REPO!r})).config)"

    def run(**more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code], env={**environment, **more}, check=True, capture_output=True, text=True
        ).stdout

    assert "nf=4" in run()
    hub.log.clear()
    assert "nf=4" in run(HF_HUB_OFFLINE="1")
    assert hub.log == []


# The official publisher's layout.


class PublishedBlock(nn.Module):
    def __init__(self, inputs: int, nf: int, shortcut: bool) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(inputs, nf, 3, padding=1)
        self.c2 = nn.Conv2d(nf, nf, 3, padding=1)
        if shortcut:
            self.c_sc = nn.Conv2d(inputs, nf, 1)


class PublishedEBM(nn.Module, PyTorchModelHubMixin):
    """The network as a stranger would write and publish it."""

    def __init__(self, nf: int = 128, patch_size: int = 1) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.block1 = PublishedBlock(3 * patch_size**2, nf, True)
        self.block2 = PublishedBlock(nf, nf, True)
        self.block3 = PublishedBlock(nf, nf, False)
        self.block4 = PublishedBlock(nf, nf, False)
        self.l5 = nn.Linear(nf, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x, self.patch_size)
        one, two = self.block1, self.block2
        x = F.avg_pool2d(one.c2(F.relu(one.c1(x))), 2) + one.c_sc(F.avg_pool2d(x, 2))
        x = F.avg_pool2d(two.c2(F.relu(two.c1(F.relu(x)))), 2) + F.avg_pool2d(two.c_sc(x), 2)
        for block in (self.block3, self.block4):
            x = x + block.c2(F.relu(block.c1(F.relu(x))))
        return self.l5(F.relu(x).mean((2, 3)))[:, 0]


@pytest.mark.parametrize("patch_size", [1, 2])
def test_checkpoint_pushed_by_the_mixin(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, patch_size: int) -> None:
    torch.manual_seed(1)
    published = PublishedEBM(nf=4, patch_size=patch_size)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    published.push_to_hub(REPO)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    model = load_ebm(resolve_ebm(REPO))
    assert model.config == EBMConfig(nf=4, patch_size=patch_size)
    torch.testing.assert_close(model(images), published(images))


def test_official_name_leads_to_the_official_repository(hub: LoopbackHub, files: Files) -> None:
    hub.repository("SunayBhat1/puregen-ebm-cinic10-imagenet", files)
    checkpoint = resolve_ebm("puregen-ebm-cinic10-imagenet")
    assert checkpoint.reference == "puregen-ebm-cinic10-imagenet"
    load_ebm(checkpoint)


# The configuration.


def test_unknown_keys_give_one_warning(model: EBM, tmp_path: Path) -> None:
    config = {"nf": 4, "patch_size": 1, "dropout": 0, "activation": "relu"}
    folder = put(tmp_path / "a", pack(dict(model.state_dict()), config))
    with pytest.warns(UserWarning, match="config.json: activation, dropout") as caught:
        assert resolve_ebm(folder).config == EBMConfig(nf=4)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("patch_size", [1, 2])
def test_missing_keys_come_from_the_weights(tmp_path: Path, patch_size: int) -> None:
    expected = EBMConfig(nf=4, patch_size=patch_size)
    checkpoint = resolve_ebm(put(tmp_path / "a", pack(dict(EBM(expected).state_dict()), {})))
    assert checkpoint.config == expected
    load_ebm(checkpoint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nf": 128, "patch_size": 2}, "nf is 128, but the weights have 4; patch_size is 2, but the weights have 1"),
        ({"nf": 4, "image_size": -1}, "config.json: Expected EBM config `image_size`"),
        ([4], "Expected a JSON object in .*config.json, but got list"),
    ],
)
def test_wrong_config(model: EBM, tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_ebm(put(tmp_path / "a", pack(dict(model.state_dict()), config)))


def test_config_that_is_not_json(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        resolve_ebm(put(tmp_path / "a", {**files, "config.json": b"nf: 4"}))


def test_other_architecture_without_config_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected nf and patch_size in .*config.json or a weight"):
        resolve_ebm(put(tmp_path / "a", pack({"layer.weight": torch.zeros(2)}, {})))


# The weights.


def test_all_misfits_are_listed(model: EBM, tmp_path: Path) -> None:
    tensors = dict(model.state_dict())
    del tensors["l5.weight"], tensors["block4.c1.bias"]
    tensors["head.weight"] = torch.zeros(2)
    tensors["block2.c1.bias"] = torch.zeros(5)
    tensors["block2.c2.bias"] = torch.zeros(4, dtype=torch.int32)
    tensors["block3.c1.bias"] = torch.full((4,), float("nan"))
    with pytest.raises(ValueError, match="PureGen EBM") as caught:
        load_ebm(resolve_ebm(put(tmp_path / "a", pack(tensors))))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == [
        "missing: block4.c1.bias (4,)",
        "missing: l5.weight (1, 4)",
        "unexpected: head.weight (2,)",
        "wrong shape: block2.c1.bias (5,), expected (4,)",
        "not floating-point: block2.c2.bias torch.int32",
        "not finite: block3.c1.bias",
    ]


def test_half_precision_becomes_float32(model: EBM, tmp_path: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    loaded = load_ebm(resolve_ebm(put(tmp_path / "a", pack(halves))))
    assert all(p.dtype == torch.float32 and p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    assert torch.equal(loaded.l5.weight, model.l5.weight.bfloat16().float())


def test_loading_draws_no_random_number(files: Files, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    load_ebm(resolve_ebm(put(tmp_path / "a", files)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_truncated_file(files: Files, tmp_path: Path, length: int) -> None:
    content = files["model.safetensors"][:length]
    folder = put(tmp_path / "a", {**files, "model.safetensors": content})
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or damaged"):
        resolve_ebm(folder)


def test_file_changed_after_it_was_resolved(files: Files, tmp_path: Path) -> None:
    checkpoint = resolve_ebm(put(tmp_path / "a", files))
    checkpoint.weights.write_bytes(files["model.safetensors"][:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match="has changed since it was resolved"):
        load_ebm(checkpoint)


def test_checkpoint_pickles(files: Files, tmp_path: Path) -> None:
    checkpoint = resolve_ebm(put(tmp_path / "a", files))
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


# References that are not on the Hub.


@pytest.mark.parametrize("form", [str, Path])
def test_local_folder_needs_no_hub(
    hub: LoopbackHub, files: Files, tmp_path: Path, form: Callable[[Path], object]
) -> None:
    folder = put(tmp_path / "run", files)
    checkpoint = resolve_ebm(form(folder))  # type: ignore[arg-type]
    assert checkpoint == EBMCheckpoint(
        reference=str(folder),
        folder=folder,
        files=CheckpointFiles(kind="ebm", config="config.json", weights="model.safetensors"),
        config=EBMConfig(nf=4),
        weights_sha256=hash_file(folder / "model.safetensors"),
        revision=None,
    )
    assert checkpoint.weights == folder / "model.safetensors"
    assert checkpoint.sha256 == checkpoint.weights_sha256
    assert hub.log == []


@pytest.mark.parametrize(
    ("present", "error", "message"),
    [
        ([], FileNotFoundError, "config.json and model.safetensors are missing; found: nothing"),
        (["model.safetensors"], FileNotFoundError, "but config.json is missing"),
        (["config.json", "ebm.pth"], ValueError, "only pickle files"),
    ],
)
def test_incomplete_folder(tmp_path: Path, present: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_ebm(put(tmp_path / "a", dict.fromkeys(present, b"")))


@pytest.mark.parametrize(
    "reference", ["", "nothing", "a/b/c", "./a", "../a", "/no/such/folder", "https://hf.co/a/b", "~/a"]
)
def test_unknown_forms(hub: LoopbackHub, reference: str) -> None:
    with pytest.raises(ValueError, match=f"none of: a catalogue name .*{DEFAULT_EBM}.*folder.*owner/name"):
        resolve_ebm(reference)
    assert hub.log == []


def test_path_objects_never_reach_the_hub(hub: LoopbackHub, files: Files, tmp_path: Path) -> None:
    hub.repository(REPO, files)
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint folder, but someone/ebm is not one"):
        resolve_ebm(Path(REPO))
    weights = put(tmp_path / "a", files) / "model.safetensors"
    with pytest.raises(ValueError, match="Give the folder of a file"):
        resolve_ebm(str(weights))
    assert hub.log == []


# The catalogue.


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files) -> Callable[..., Path]:
    """Packages a checkpoint under the default name."""

    def add(content: Files = files, sha256: str | None = None) -> Path:
        monkeypatch.setattr(catalogue, "PACKAGED_CHECKPOINTS", tmp_path / "assets")
        entry = CatalogueEntry(name=DEFAULT_EBM, packaged=True, sha256=sha256)
        monkeypatch.setattr(references, "CATALOGUE", {DEFAULT_EBM: entry})
        return put(tmp_path / "assets" / DEFAULT_EBM, content)

    return add


def test_default_is_packaged_and_needs_no_hub(hub: LoopbackHub, files: Files, shelf: Callable[..., Path]) -> None:
    shelf(sha256=hashlib.sha256(files["model.safetensors"]).hexdigest())
    checkpoint = resolve_ebm(None)
    assert (checkpoint.reference, checkpoint.revision) == (DEFAULT_EBM, None)
    load_ebm(checkpoint)
    assert hub.log == []


def test_other_hash_than_the_pinned_one(shelf: Callable[..., Path]) -> None:
    shelf(sha256="0" * 64)
    with pytest.raises(ValueError, match=f"Expected sha256 {'0' * 64} for .*Install puregen-transforms again"):
        resolve_ebm(None)


def test_packaged_file_is_not_there(shelf: Callable[..., Path]) -> None:
    folder = shelf({})
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match="installation of puregen-transforms is incomplete"):
        resolve_ebm(None)


def test_pinned_hub_entry(hub: LoopbackHub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.repository(REPO, files)
    pinned = {"packaged": False, "repo_id": REPO, "revision": repository.references["main"]}
    repository.commit({})
    entries = [
        CatalogueEntry(name="right", sha256=hashlib.sha256(files["model.safetensors"]).hexdigest(), **pinned),
        CatalogueEntry(name="wrong", sha256="0" * 64, **pinned),
    ]
    monkeypatch.setattr(references, "CATALOGUE", {entry.name: entry for entry in entries})
    load_ebm(resolve_ebm("right"))
    hub.log.clear()
    load_ebm(resolve_ebm("right"))
    assert hub.log == []
    with pytest.raises(ValueError, match=r"Expected sha256 0000.*Delete .* and load again"):
        resolve_ebm("wrong")


def test_packaged_checkpoints_match_their_pinned_hashes() -> None:
    shipped = {path.name for path in catalogue.PACKAGED_CHECKPOINTS.glob("*") if path.is_dir()}
    packaged = {entry.name for entry in CATALOGUE.values() if entry.packaged}
    assert shipped == packaged
    for name in packaged:
        entry = CATALOGUE[name]
        found = find_checkpoint(name, kinds=[entry.kind])
        assert entry.sha256 == hash_file(found.weights)
        match entry.kind:
            case "ebm":
                load_ebm(resolve_ebm(name))
            case "ddpm":
                load_unet(resolve_ddpm(name))
            case "denoiser":
                load_denoiser(resolve_denoiser(name))

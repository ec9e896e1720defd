"""DDPM checkpoints in the layouts of diffusers, over a loopback Hub that the real client talks to."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub import hf_hub_download
from safetensors.torch import load, save

from puregen_transforms.functional.diffusion import alpha_bars_of, beta_schedule
from puregen_transforms.hub import catalogue, references
from puregen_transforms.hub.catalogue import DEFAULT_DDPM, DEFAULT_EBM, CatalogueEntry
from puregen_transforms.hub.ddpm import alpha_bars, load_unet, resolve_ddpm
from puregen_transforms.hub.ebm import resolve_ebm
from puregen_transforms.hub.publish import pull_checkpoint, push_checkpoint
from puregen_transforms.models.saving import save_ddpm
from puregen_transforms.models.unet import DEFAULT_SCHEDULE
from tests.hub.loopback import TOKEN, LoopbackHub
from tests.hub.tiny import Files, put

REPO = "someone/ddpm"
WEIGHTS = "diffusion_pytorch_model.safetensors"
HALF_WEIGHTS = "diffusion_pytorch_model.fp16.safetensors"
COSINE = {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"}


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=32,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    return model.eval()


def read(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pipeline(unet: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What diffusers itself writes."""
    folder = tmp_path_factory.mktemp("pipeline")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return read(folder)


@pytest.fixture(scope="module")
def bare(pipeline: Files) -> Files:
    return {name: pipeline[f"unet/{name}"] for name in ("config.json", WEIGHTS)}


def changed(content: bytes, **values: Any) -> bytes:
    return json.dumps({**json.loads(content), **values}).encode()


def predict(model: UNet2DModel) -> torch.Tensor:
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    with torch.no_grad():
        return model(images, torch.tensor([3, 70])).sample


def same_weights(one: UNet2DModel, other: UNet2DModel) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# From the Hub.


def test_pipeline(hub: LoopbackHub, pipeline: Files, unet: UNet2DModel) -> None:
    others = {"README.md": b"never", f"unet/{HALF_WEIGHTS}": b"never", "unet/diffusion_pytorch_model.bin": b"never"}
    commit = hub.repository(REPO, {**pipeline, **others}).references["main"]
    checkpoint = resolve_ddpm(REPO)
    assert (checkpoint.reference, checkpoint.revision) == (REPO, commit)
    assert checkpoint.config == json.loads(pipeline["unet/config.json"])
    assert checkpoint.schedule == DEFAULT_SCHEDULE
    assert same_weights(load_unet(checkpoint), unet)
    assert sorted(hub.downloads()) == ["config.json", WEIGHTS, "model_index.json", "scheduler_config.json"]


@pytest.mark.parametrize("place", [None, "scheduler_config.json", "scheduler/scheduler_config.json"])
def test_bare_network(hub: LoopbackHub, bare: Files, unet: UNet2DModel, place: str | None) -> None:
    hub.repository(REPO, {**bare, **({place: json.dumps(COSINE).encode()} if place else {})})
    checkpoint = resolve_ddpm(REPO)
    assert same_weights(load_unet(checkpoint), unet)
    expected = DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2") if place else DDPMScheduler()
    assert torch.equal(alpha_bars(checkpoint), expected.alphas_cumprod)
    assert len(hub.downloads()) == (3 if place else 2)


def test_pipeline_without_folders(hub: LoopbackHub, pipeline: Files, bare: Files, unet: UNet2DModel) -> None:
    index = {"model_index.json": pipeline["model_index.json"], "scheduler_config.json": json.dumps(COSINE).encode()}
    hub.repository(REPO, {**bare, **index})
    checkpoint = resolve_ddpm(REPO)
    assert checkpoint.schedule["num_train_timesteps"] == 50
    assert same_weights(load_unet(checkpoint), unet)


@pytest.fixture(params=["pipeline", "bare", "half"])
def layout(request: pytest.FixtureRequest, pipeline: Files, bare: Files) -> Files:
    half = {"config.json": bare["config.json"], HALF_WEIGHTS: bare[WEIGHTS]}
    return {"pipeline": pipeline, "bare": bare, "half": half}[request.param]


def test_cached_second_load_makes_no_request(hub: LoopbackHub, layout: Files) -> None:
    repository = hub.repository(REPO, layout)
    first = resolve_ddpm(REPO)
    repository.commit({})
    hub.log.clear()
    for reference in (REPO, f"{REPO}@{first.revision}"):
        again = resolve_ddpm(reference)
        load_unet(again)
        assert again == replace(first, reference=reference)
    assert hub.log == []


@pytest.mark.parametrize("reference", [REPO, f"{REPO}@main"])
def test_offline(hub: LoopbackHub, layout: Files, go_offline: Callable[[], None], reference: str) -> None:
    hub.repository(REPO, layout)
    first = resolve_ddpm(REPO)
    hub.log.clear()
    go_offline()
    assert resolve_ddpm(reference) == replace(first, reference=reference)
    with pytest.raises(FileNotFoundError, match="someone/other.*in the cache, because HF_HUB_OFFLINE"):
        resolve_ddpm("someone/other")
    assert hub.log == []


def test_named_branch_while_the_hub_is_down(hub: LoopbackHub, layout: Files) -> None:
    hub.repository(REPO, layout)
    first = resolve_ddpm(f"{REPO}@main")
    hub.failing = True
    with pytest.warns(UserWarning, match=f"using the cached commit {first.revision} of 'main'") as caught:
        assert resolve_ddpm(f"{REPO}@main") == first
    assert caught[0].filename == __file__


def test_a_cache_without_the_schedule_is_completed(hub: LoopbackHub, bare: Files) -> None:
    hub.repository(REPO, {**bare, "scheduler_config.json": json.dumps(COSINE).encode()})
    for name in bare:  # as UNet2DModel.from_pretrained leaves the cache
        hf_hub_download(REPO, name)
    hub.log.clear()
    assert resolve_ddpm(REPO).schedule["num_train_timesteps"] == 50
    assert hub.downloads() == ["scheduler_config.json"]


def test_a_cache_with_half_precision_only_is_completed(hub: LoopbackHub, bare: Files) -> None:
    hub.repository(REPO, {**bare, HALF_WEIGHTS: b"never"})
    hf_hub_download(REPO, HALF_WEIGHTS)
    assert resolve_ddpm(REPO).weights.name == WEIGHTS


# What is not accepted.


@pytest.mark.parametrize("folder", ["", "unet/"])
def test_pickles_are_refused_unread(hub: LoopbackHub, pipeline: Files, bare: Files, folder: str) -> None:
    files = dict(pipeline if folder else bare)
    del files[folder + WEIGHTS]
    hub.repository(REPO, {**files, "optimizer.bin": b"x", f"{folder}diffusion_pytorch_model.bin": b"x"})
    converted = rf'save_file\(torch.load\("{folder}diffusion_pytorch_model.bin", .*"{folder}{WEIGHTS}"\)'
    with pytest.raises(ValueError, match=f"only pickle files.*{converted}"):
        resolve_ddpm(REPO)
    assert hub.downloads() == []


@pytest.mark.parametrize("name", ["unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"])
def test_incomplete_pipeline(pipeline: Files, tmp_path: Path, name: str) -> None:
    files = {key: content for key, content in pipeline.items() if key != name}
    with pytest.raises(FileNotFoundError, match=f"but {name} is missing; found: .*model_index.json"):
        resolve_ddpm(put(tmp_path / "a", files))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"Expected config.json and {WEIGHTS} in .*found: nothing"):
        resolve_ddpm(put(tmp_path / "a", {}))


def test_wrong_kind(hub: LoopbackHub, pipeline: Files, bare: Files, files: Files, tmp_path: Path) -> None:
    hub.repository("someone/ebm", files)
    for ebm in ("someone/ebm", put(tmp_path / "ebm", files), DEFAULT_EBM):
        with pytest.raises(ValueError, match=r"Expected a DDPM .* is an EBM checkpoint: give it as `checkpoint=`"):
            resolve_ddpm(ebm)
    hub.repository(REPO, pipeline)
    renamed = {"config.json": bare["config.json"], "model.safetensors": files["model.safetensors"]}
    folders = [put(tmp_path / str(i), content) for i, content in enumerate((pipeline, bare, renamed))]
    for ddpm in (REPO, *folders, DEFAULT_DDPM):
        with pytest.raises(ValueError, match=r"Expected an EBM .* is a DDPM checkpoint: give it as `ddpm_checkpoint=`"):
            resolve_ebm(ddpm)
    assert hub.downloads() == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "it describes a UNet2DConditionModel"),
        ({"out_channels": 6}, "3 output channels .* but got 3 and 6. .* learned variance"),
        ({"in_channels": 1, "out_channels": 1}, "but got 1 and 1. Choose a checkpoint for RGB images"),
        ({"num_class_embeds": 10}, r"wants class labels \(num_class_embeds 10\)"),
        ({"class_embed_type": "timestep"}, r"wants class labels \(class_embed_type timestep\)"),
    ],
)
def test_other_networks(bare: Files, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    files = {**bare, "config.json": changed(bare["config.json"], **values)}
    with pytest.raises(ValueError, match=message):
        resolve_ddpm(put(tmp_path / "a", files))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prediction_type": "v_prediction"}, "but it predicts v_prediction"),
        ({"prediction_type": "sample"}, "but it predicts sample"),
        ({"predict_epsilon": False}, "but it predicts sample"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "but it is of a ScoreSdeVeScheduler"),
        ({"num_train_timesteps": 0, "beta_end": 2}, "but got num_train_timesteps 0; beta_end 2"),
        ({"beta_schedule": "cosine"}, "one of linear.*but got beta_schedule cosine"),
        ({"trained_betas": [0.1, "a"]}, "but got trained_betas"),
    ],
)
def test_other_schedules(bare: Files, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_ddpm(put(tmp_path / "a", {**bare, "scheduler_config.json": changed(b"{}", **values)}))


def test_pipeline_on_latents(pipeline: Files, tmp_path: Path) -> None:
    index = changed(pipeline["model_index.json"], vqvae=["diffusers", "VQModel"], safety_checker=[None, None])
    with pytest.raises(ValueError, match=r"it has vqvae too: .* plain images"):
        resolve_ddpm(put(tmp_path / "a", {**pipeline, "model_index.json": index}))


def test_all_misfits_are_listed(bare: Files, tmp_path: Path) -> None:
    tensors = load(bare[WEIGHTS])
    del tensors["conv_out.bias"]
    tensors["head.weight"] = torch.zeros(2)
    tensors["conv_in.bias"] = torch.zeros(5)
    tensors["conv_norm_out.bias"] = torch.full((8,), float("nan"))
    with pytest.raises(ValueError, match="UNet2DModel") as caught:
        load_unet(resolve_ddpm(put(tmp_path / "a", {**bare, WEIGHTS: save(tensors)})))
    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [
        "missing: conv_out.bias (3,)",
        "unexpected: head.weight (2,)",
        "wrong shape: conv_in.bias (5,), expected (8,)",
        "not finite: conv_norm_out.bias",
    ]


def test_config_that_is_of_no_network(bare: Files, tmp_path: Path) -> None:
    config = changed(bare["config.json"], down_block_types=["NoBlock", "DownBlock2D"])
    checkpoint = resolve_ddpm(put(tmp_path / "a", {**bare, "config.json": config}))
    with pytest.raises(ValueError, match=r"a UNet2DModel in .*config.json, but diffusers cannot build .*NoBlock"):
        load_unet(checkpoint)


def test_truncated_and_changed_weights(bare: Files, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="truncated or damaged"):
        resolve_ddpm(put(tmp_path / "a", {**bare, WEIGHTS: bare[WEIGHTS][:-9]}))
    checkpoint = resolve_ddpm(put(tmp_path / "b", bare))
    checkpoint.weights.write_bytes(bare[WEIGHTS][:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match="has changed since it was resolved"):
        load_unet(checkpoint)


# What is accepted.


def test_prediction_is_that_of_diffusers(pipeline: Files, tmp_path: Path) -> None:
    folder = put(tmp_path / "a", pipeline)
    theirs = DDPMPipeline.from_pretrained(folder)
    checkpoint = resolve_ddpm(folder)
    assert torch.equal(predict(load_unet(checkpoint)), predict(theirs.unet.eval()))
    assert torch.equal(alpha_bars(checkpoint), theirs.scheduler.alphas_cumprod)
    assert torch.equal(alpha_bars(checkpoint), alpha_bars_of(beta_schedule()))


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler(rescale_betas_zero_snr=True), DDPMScheduler(trained_betas=[0.1, 0.2], num_train_timesteps=2)],
)
def test_schedule_of_another_sampler(bare: Files, tmp_path: Path, scheduler: Any) -> None:
    content = scheduler.to_json_string().encode()
    checkpoint = resolve_ddpm(put(tmp_path / "a", {**bare, "scheduler_config.json": content}))
    assert torch.equal(alpha_bars(checkpoint), scheduler.alphas_cumprod)


def test_file_written_by_an_old_diffusers(bare: Files, unet: UNet2DModel, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load(bare[WEIGHTS]).items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        tensors[name] = tensor
    assert "mid_block.attentions.0.proj_attn.weight" in tensors
    config = changed(bare["config.json"], _diffusers_version="0.0.4", retired_setting=1)
    files = {"config.json": config, WEIGHTS: save(tensors)}
    assert torch.equal(predict(load_unet(resolve_ddpm(put(tmp_path / "a", files)))), predict(unet))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [WEIGHTS, HALF_WEIGHTS])
def test_half_precision_becomes_float32(bare: Files, tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    halves = {key: tensor.to(dtype) for key, tensor in load(bare[WEIGHTS]).items()}
    model = load_unet(resolve_ddpm(put(tmp_path / "a", {"config.json": bare["config.json"], name: save(halves)})))
    assert all(parameter.dtype == torch.float32 and parameter.device.type == "cpu" for parameter in model.parameters())
    assert not model.training
    assert torch.equal(model.conv_in.weight, halves["conv_in.weight"].float())


def test_digest(bare: Files, tmp_path: Path) -> None:
    def digest(name: str, files: Files) -> str:
        return resolve_ddpm(put(tmp_path / name, {**bare, **files})).sha256

    plain = digest("plain", {})
    written_out = DDPMScheduler().to_json_string().encode()
    assert digest("schedule as by default", {"scheduler_config.json": written_out}) == plain
    assert digest("version", {"config.json": changed(bare["config.json"], _diffusers_version="9")}) == plain
    tensors = load(bare[WEIGHTS])
    others = {
        "weights": {WEIGHTS: save({**tensors, "conv_in.bias": tensors["conv_in.bias"] + 1})},
        "schedule": {"scheduler_config.json": changed(written_out, beta_end=0.03)},
        "network": {"config.json": changed(bare["config.json"], norm_eps=1e-6)},
    }
    assert len({plain, *(digest(name, files) for name, files in others.items())}) == 4


def test_resolving_does_not_import_diffusers(pipeline: Files, tmp_path: Path) -> None:
    folder = put(tmp_path / "a", pipeline)
    code = (
        "import sys; from puregen_transforms.hub.ddpm import resolve_ddpm; "
        f"print(resolve_ddpm({str(folder)!r}).sha256, 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [resolve_ddpm(folder).sha256, "False"]


def test_loading_draws_no_random_number(bare: Files, tmp_path: Path) -> None:
    checkpoint = resolve_ddpm(put(tmp_path / "a", bare))
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint
    before = torch.get_rng_state()
    load_unet(checkpoint)
    assert torch.equal(torch.get_rng_state(), before)


# The catalogue.


def test_default_is_packaged_and_pinned(
    hub: LoopbackHub, pipeline: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "PACKAGED_CHECKPOINTS", tmp_path)
    put(tmp_path / DEFAULT_DDPM, {**pipeline, "record.json": b"{}"})
    right = hashlib.sha256(pipeline[f"unet/{WEIGHTS}"]).hexdigest()
    for sha256 in (right, "0" * 64):
        entry = CatalogueEntry(name=DEFAULT_DDPM, kind="ddpm", packaged=True, sha256=sha256)
        monkeypatch.setattr(references, "CATALOGUE", {DEFAULT_DDPM: entry})
        if sha256 == right:
            load_unet(resolve_ddpm())
    with pytest.raises(ValueError, match=f"Expected sha256 {'0' * 64} for .*Install puregen-transforms again"):
        resolve_ddpm()
    assert hub.log == []


def test_official_name_leads_to_the_official_repository(hub: LoopbackHub, bare: Files) -> None:
    hub.repository("SunayBhat1/puregen-ddpm-cinic10-imagenet", bare)
    assert resolve_ddpm("puregen-ddpm-cinic10-imagenet").reference == "puregen-ddpm-cinic10-imagenet"


# Saving, pushing and pulling.


def test_save_then_load(unet: UNet2DModel, tmp_path: Path) -> None:
    from_a_folder = copy.deepcopy(unet)
    from_a_folder.register_to_config(_name_or_path="/home/someone")
    save_ddpm(from_a_folder, tmp_path / "run", schedule={"beta_end": 0.03})
    assert "/home/someone" not in (tmp_path / "run/unet/config.json").read_text()
    checkpoint = resolve_ddpm(tmp_path / "run")
    assert checkpoint.schedule == {**DEFAULT_SCHEDULE, "beta_end": 0.03}
    loaded, theirs = load_unet(checkpoint), DDPMPipeline.from_pretrained(tmp_path / "run")
    assert all(torch.equal(a.half().float(), b) for a, b in zip(unet.parameters(), loaded.parameters(), strict=True))
    assert torch.equal(predict(theirs.unet.eval()), predict(loaded))
    assert torch.equal(theirs.scheduler.alphas_cumprod, alpha_bars(checkpoint))
    save_ddpm(unet, tmp_path / "whole", dtype=torch.float32)
    assert same_weights(load_unet(resolve_ddpm(tmp_path / "whole")), unet)


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "conv_out.bias are not"), (1e5, "or in float32")])
def test_save_refuses_weights_that_are_not_finite(bare: Files, tmp_path: Path, value: float, message: str) -> None:
    model = load_unet(resolve_ddpm(put(tmp_path / "a", bare)))
    torch.nn.init.constant_(model.conv_out.bias, value)
    with pytest.raises(ValueError, match=message):
        save_ddpm(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_save_refuses_what_is_no_schedule(unet: UNet2DModel, tmp_path: Path) -> None:
    for schedule, message in (({"steps": 9}, "but got steps"), ({"beta_start": 0}, "`schedule` .*beta_start 0")):
        with pytest.raises(ValueError, match=message):
            save_ddpm(unet, tmp_path / "run", schedule=schedule)


def test_round_trip_is_byte_identical(hub: LoopbackHub, layout: Files, tmp_path: Path) -> None:
    others = {"README.md": b"# A network\n", "record.json": b"{}", "unet.ckpt": b"never", "logs.txt": b"never"}
    push_checkpoint(put(tmp_path / "run", {**layout, **others}), REPO, token=TOKEN)
    stored = hub.repositories[REPO].commits[hub.repositories[REPO].references["main"]]
    assert stored.keys() - {".gitattributes"} == {*layout, "README.md", "record.json"}
    pulled = pull_checkpoint(REPO, tmp_path / "deep" / "copy")
    assert read(pulled) == layout
    assert {name: stored[name] for name in layout} == layout


def test_broken_folder_is_refused_before_any_request(hub: LoopbackHub, pipeline: Files, tmp_path: Path) -> None:
    tensors = load(pipeline[f"unet/{WEIGHTS}"])
    del tensors["conv_in.bias"]
    folder = put(tmp_path / "a", {**pipeline, f"unet/{WEIGHTS}": save(tensors)})
    with pytest.raises(ValueError, match=r"missing: conv_in.bias"):
        push_checkpoint(folder, REPO, token=TOKEN)
    assert hub.log == []

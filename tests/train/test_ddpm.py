"""Training of the noise predictor: what one update does, resuming, processes, health."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file

from puregen_transforms import PureGen
from puregen_transforms.data.demo import ASSETS
from puregen_transforms.models.config import UNetConfig
from puregen_transforms.train.config import DDPMTraining, EBMTraining
from puregen_transforms.train.ddpm import DDPMTrainer
from puregen_transforms.train.ebm import EBMTrainer
from puregen_transforms.train.generator_run import read_log, run_training
from puregen_transforms.train.health import PATIENCE, SpikeWatch, TrainingDivergedError
from puregen_transforms.train.sparse import sparse_rows

SMALL = DDPMTraining(updates=6, batch_size=4, warmup=2, learning_rate=1e-3)
NETWORK = UNetConfig(widths=(8, 16), layers=1, attention=(), groups=4)


def trainer(images, training=SMALL):
    return DDPMTrainer(images, training, NETWORK)


def test_defaults_are_the_published_settings():
    training = DDPMTraining()
    assert (training.trained_steps, training.learning_rate, training.warmup, training.batch_size) == (
        250,
        1e-4,
        500,
        256,
    )
    assert training.updates == pytest.approx(150 * 70_000 / 256, rel=0.01)
    assert training.rate(0) == pytest.approx(1e-4 / 500)
    assert training.rate(500) == 1e-4
    assert training.rate(40_999) < 1e-9


def test_the_default_network_is_the_official_one():
    settings = UNetConfig().to_diffusers()
    assert settings["block_out_channels"] == [128, 128, 256, 256, 512, 512]
    assert settings["down_block_types"] == ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
    assert settings["up_block_types"] == ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4


def test_the_loss_falls(images):
    run = DDPMTrainer(images, DDPMTraining(updates=60, batch_size=16, warmup=5, learning_rate=3e-3), NETWORK)
    losses = [run.step().loss for _ in range(60)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_the_average_follows_the_weights_and_does_not_keep_the_first(images):
    run = DDPMTrainer(images, DDPMTraining(**{**SMALL.to_dict(), "updates": 30}), NETWORK)
    first = {name: value.clone() for name, value in run.network.state_dict().items()}
    while not run.done:
        run.step()
    averaged, last = run.result.state_dict(), run.network.state_dict()
    moved = sum(float((last[name] - first[name]).norm()) for name in last)
    behind = sum(float((last[name] - averaged[name]).norm()) for name in last)
    assert 0 < behind < 0.6 * moved


def test_a_run_leaves_a_checkpoint_that_diffusers_and_puregen_load(images, tmp_path):
    run = trainer(images)
    drawn = []
    assert len(list(run_training(run, tmp_path, save_every=4, draw_curves=drawn.append))) == 6
    assert drawn == [tmp_path, tmp_path]
    assert [row["update"] for row in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    unet = DDPMPipeline.from_pretrained(tmp_path).unet
    assert torch.equal(unet.conv_in.weight, run.result.conv_in.weight)
    out = PureGen("ddpm", ddpm_checkpoint=tmp_path, ddpm_steps=2, seed=0)(images[:2])
    assert not torch.equal(out, images[:2])
    assert list(run_training(trainer(images), tmp_path)) == [], "a finished run is not run again"


def test_other_settings_or_another_kind_are_refused(images, tmp_path):
    list(run_training(trainer(images), tmp_path))
    with pytest.raises(ValueError, match="other settings"):
        list(run_training(trainer(images, DDPMTraining(**{**SMALL.to_dict(), "batch_size": 8})), tmp_path))
    ebm = EBMTrainer(images, EBMTraining(updates=2, batch_size=4, langevin_steps=1, bank_size=8), _tiny_ebm())
    with pytest.raises(ValueError, match="other settings"):
        list(run_training(ebm, tmp_path))


def _tiny_ebm():
    from puregen_transforms.models.config import EBMConfig

    return EBMConfig(nf=4)


def test_a_sparse_set_has_the_share_of_each_class_and_its_copies(images):
    labels = torch.arange(64) % 4 // 2  # two classes of 32
    few = DDPMTraining(**{**SMALL.to_dict(), "sparse": 0.25, "copies": 4})
    run = DDPMTrainer(images, few, NETWORK, labels=labels)
    learned, *copies = run.images.split(16)
    assert len(copies) == 4
    assert all(torch.equal(copy, learned) for copy in copies)
    rows = [int((images == one).flatten(1).all(1).nonzero()) for one in learned]
    assert rows == sorted(set(rows))
    assert labels[rows].bincount().tolist() == [8, 8]
    assert run.step().loss > 0
    assert run.settings()["training"].items() >= {"sparse": 0.25, "copies": 4}.items()
    assert torch.equal(DDPMTrainer(images, few, NETWORK, labels=labels).images, run.images), "the seed decides"


def test_without_labels_a_sparse_set_is_drawn_from_all_and_never_empty():
    rows = [sparse_rows(1000, 0.04, seed=seed) for seed in range(3)]
    assert [len(drawn.unique()) for drawn in rows] == [40, 40, 40]
    assert not torch.equal(rows[0], rows[1])
    assert len(sparse_rows(10, 0.001, seed=0)) == 1
    assert len(sparse_rows(10, 0.001, seed=0, labels=torch.arange(10) % 5)) == 5
    assert sparse_rows(10, 1.0, seed=0).tolist() == list(range(10))


def test_starting_from_trained_weights(images, tmp_path):
    first = trainer(images)
    list(run_training(first, tmp_path / "first"))
    second = trainer(images)
    second.start_from(first.result.state_dict(), "first")
    assert torch.equal(second.network.conv_in.weight, first.result.conv_in.weight)
    assert second.settings()["initial"] == "first"
    second.step()
    assert not torch.equal(second.network.conv_in.weight, first.result.conv_in.weight)


# --- health ---


def test_single_spikes_pass_and_lasting_ones_do_not():
    watch = SpikeWatch(10)
    assert not any(watch(1.0 + 0.1 * (i % 5)) for i in range(100))
    assert not any(watch(50.0) for _ in range(PATIENCE - 1))
    assert not watch(1.0)
    assert not any(watch(50.0) for _ in range(PATIENCE - 1))
    assert watch(50.0)


def test_training_stops_with_a_diagnosis(images):
    run = trainer(images)
    run.step()
    with torch.no_grad():
        run.network.conv_out.weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"not finite at update 1.*lower learning rate"):
        run.step()


def test_a_rate_that_is_too_high_is_found_out(images):
    training = DDPMTraining(updates=400, batch_size=4, warmup=0, learning_rate=1e-3, largest_gradient=1e9)
    run = trainer(images, training)
    for _ in range(60):
        run.step()
    with torch.no_grad():
        run.network.conv_out.weight.mul_(1e4)
    with pytest.raises(TrainingDivergedError, match="gradients"):
        for _ in range(60):
            run.step()


def test_chains_that_leave_the_images_stop_training(images):
    run = EBMTrainer(images, EBMTraining(updates=5, batch_size=4, langevin_steps=5, bank_size=8), _tiny_ebm())
    with torch.no_grad():
        run.network.l5.weight.mul_(1e5)
    with pytest.raises(TrainingDivergedError, match="left the images"):
        run.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "`updates`"),
        ({"trained_steps": 1001}, "`trained_steps`"),
        ({"learning_rate": 0.0}, "`learning_rate`"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"warmup": -1}, "`warmup`"),
        ({"sparse": 0.0}, "`sparse` above 0"),
        ({"sparse": 1.5}, "up to 1"),
        ({"copies": -1}, "`copies` of 0 or more"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DDPMTraining(**settings)


def test_bad_networks():
    with pytest.raises(ValueError, match="`groups`"):
        UNetConfig(widths=(8, 12), groups=8, attention=())
    with pytest.raises(ValueError, match="`attention`"):
        UNetConfig(widths=(8, 16), groups=8, attention=(3,))


# --- on the command line: killed, and in several processes ---

OPTIONS = {
    "ebm": "--nf 4 --langevin-steps 4 --bank-size 16 --batch-size 4",
    "ddpm": "--widths 8,16 --layers 1 --groups 4 --batch-size 4 --attention= --warmup 5",
}
COMMON = "--updates 30 --save-every 5 --dtype float32 --cpu"


def start(kind, folder, cache, *launcher):
    command = [*(launcher or (sys.executable,)), "-m", "puregen_transforms", "train", kind]
    command += [str(ASSETS / "cifar10-test-200.parquet"), str(folder), *OPTIONS[kind].split(), *COMMON.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def weights(folder):
    (path,) = [path for path in folder.rglob("*.safetensors") if path.name != "state.safetensors"]
    return load_file(path)


@pytest.fixture(scope="module", params=["ebm", pytest.param("ddpm", marks=pytest.mark.slow)])
def whole(request, tmp_path_factory):
    """An unbroken run in one process: what is trained, and the run's folder."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param) / "whole"
    process = start(kind, folder, folder.parent / "cache")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return kind, folder


def test_kill_and_resume(whole, tmp_path):
    """SIGKILL in the middle of a run: the rerun ends with the weights and log of an unbroken run."""
    kind, folder = whole
    broken = start(kind, tmp_path / "broken", tmp_path / "cache")
    state = tmp_path / "broken/state.safetensors"
    deadline = time.monotonic() + 200
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    broken.send_signal(signal.SIGKILL)
    broken.wait()
    assert not list((tmp_path / "broken").rglob("config.json")), "killed too late for the test to mean anything"
    resumed = start(kind, tmp_path / "broken", tmp_path / "cache")
    output, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, output

    a, b = weights(folder), weights(tmp_path / "broken")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (folder / "log.jsonl").read_text() == (tmp_path / "broken/log.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_train_as_one_does(whole, tmp_path):
    """Every update is the same mathematically; rounding in another order is all that may differ."""
    kind, folder = whole
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    two = start(kind, tmp_path / "two", tmp_path / "cache", *launcher)
    output, _ = two.communicate(timeout=200)
    assert two.returncode == 0, output
    assert "in 2 processes" in output
    a, b = read_log(folder), read_log(tmp_path / "two")
    assert len(a) == len(b) == 30
    for left, right in zip(a[:10], b[:10], strict=True):
        assert left == pytest.approx(right, rel=1e-3, abs=1e-3)
    assert (tmp_path / "two/samples.png").exists()

"""Contrastive training: what one update does, and that nothing is lost when a run is cut off."""

import json

import pytest
import torch

from puregen_transforms._files import write_atomically
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.config import EBMConfig
from puregen_transforms.train.config import EBMTraining
from puregen_transforms.train.ebm import EBMTrainer
from puregen_transforms.train.generator_run import run_training
from puregen_transforms.train.health import TrainingDivergedError

SMALL = EBMTraining(updates=6, batch_size=4, langevin_steps=3, bank_size=10, milestones=(0.5,), rate_factors=(0.1,))


def trainer(images, training=SMALL, nf=4):
    return EBMTrainer(images, training, EBMConfig(nf=nf))


def test_defaults_are_the_published_settings():
    training = EBMTraining()
    assert (training.updates, training.batch_size, training.langevin_steps) == (150_000, 16, 100)
    assert (training.step_size, training.temperature, training.data_noise) == (1.25e-2, 1e-4, 1.5e-2)
    assert training.rate(0) == 1e-4
    assert training.rate(149_999) == pytest.approx(1e-7)


def test_bank_starts_as_noisy_data(images):
    run = trainer(images)
    distances = (run.bank[:, None] - (images.float() / 127.5 - 1)[None]).square().mean((2, 3, 4)).sqrt().amin(1)
    mirrored = (run.bank[:, None] - (images.flip(3).float() / 127.5 - 1)[None]).square().mean((2, 3, 4)).sqrt().amin(1)
    nearest = torch.minimum(distances, mirrored)
    torch.testing.assert_close(nearest, torch.full_like(nearest, SMALL.data_noise), rtol=0.1, atol=0)


def test_an_update_moves_the_weights_and_only_the_drawn_chains(images):
    run = trainer(images)
    before, bank = {k: v.clone() for k, v in run.model.state_dict().items()}, run.bank.clone()
    statistics = run.step()
    assert any(not torch.equal(before[k], v) for k, v in run.model.state_dict().items())
    assert (run.bank != bank).flatten(1).any(1).sum() == SMALL.batch_size
    assert statistics.update == run.update == 1
    assert statistics.chain_distance > 0.01


def test_chains_restart_from_the_positive_images_of_their_update(images):
    """Then chance differences between the two halves of an update, as of colour, are nothing that could be learned."""
    still = {"updates": 3, "batch_size": 8, "bank_size": 8, "langevin_steps": 1, "step_size": 1e-6}
    paired, apart = (EBMTraining(**still, rejuvenation=share) for share in (1.0, 0.0))
    differences = []
    for training in (paired, apart):
        statistics = trainer(images, training).step()
        differences.append(abs(statistics.positive_energy - statistics.negative_energy))
    assert differences[0] < 1e-3 * differences[1]


def test_energy_rises_where_the_chains_are_and_falls_on_data(images):
    """With chains held at noisy images (a tiny step), the energy learns to tell those from data."""
    training = EBMTraining(
        updates=60, batch_size=16, langevin_steps=1, bank_size=64, rejuvenation=0, step_size=1e-6, learning_rate=1e-3
    )
    run = EBMTrainer(images, training, EBMConfig(nf=8))
    data = images.float() / 127.5 - 1
    noisy = data + 0.3 * torch.randn(data.shape, generator=torch.Generator().manual_seed(0))
    run.bank = noisy.clone()
    while not run.done:
        run.step()
    with torch.no_grad():
        assert (run.model(noisy) > run.model(data)).float().mean() > 0.95


def test_rejuvenation_restarts_chains_from_data(images):
    training = EBMTraining(**{**SMALL.to_dict(), "rejuvenation": 1.0})
    run = trainer(images, training)
    run.bank.fill_(5.0)
    run.step()
    assert (run.bank.flatten(1).amax(1) < 4).sum() == training.batch_size


def test_a_run_leaves_a_loadable_checkpoint(images, tmp_path):
    run = trainer(images)
    assert len(list(run_training(run, tmp_path, save_every=4))) == 6
    model = load_ebm(resolve_ebm(tmp_path))
    assert torch.equal(model.l5.weight, run.model.l5.weight)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["update"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert list(run_training(trainer(images), tmp_path)) == [], "a finished run is not run again"


def test_a_network_that_is_not_finite_is_not_written(images, tmp_path):
    run = trainer(images)
    with torch.no_grad():
        run.model.l5.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match=r"Expected finite weights .* l5.weight are not"):
        run.export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_settings_is_refused(images, tmp_path):
    list(run_training(trainer(images), tmp_path))
    other = EBMTraining(**{**SMALL.to_dict(), "batch_size": 5})
    with pytest.raises(ValueError, match="other settings"):
        list(run_training(trainer(images, other), tmp_path))


def test_diverging_training_stops_with_the_update(images):
    run = trainer(images)
    run.step()
    with torch.no_grad():
        run.model.l5.weight.fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="not finite"):
        run.step()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"updates": 0}, "`updates`"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"rejuvenation": 1.5}, "`rejuvenation`"),
        ({"bank_size": 3}, "at least `batch_size`"),
        ({"milestones": (0.5,)}, "`milestones`"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        EBMTraining(**settings)


def test_settings_round_trip():
    assert EBMTraining.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


@pytest.mark.parametrize("bad", [torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(2, 3, 32, 32)])
def test_wrong_images(bad):
    with pytest.raises(ValueError, match="Expected training images"):
        trainer(bad)


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]

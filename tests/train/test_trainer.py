"""What holds for the training of either generator."""

import pytest
import torch

from puregen_transforms.models.config import EBMConfig, UNetConfig
from puregen_transforms.train.checkpoint import load_state, save_state
from puregen_transforms.train.config import DDPMTraining, EBMTraining
from puregen_transforms.train.ddpm import DDPMTrainer
from puregen_transforms.train.ebm import EBMTrainer


def ebm(images):
    training = EBMTraining(updates=6, batch_size=4, langevin_steps=3, bank_size=10, ema_decay=0.9)
    return EBMTrainer(images, training, EBMConfig(nf=4))


def ddpm(images):
    training = DDPMTraining(updates=6, batch_size=4, warmup=2, learning_rate=1e-3)
    return DDPMTrainer(images, training, UNetConfig(widths=(8, 16), layers=1, attention=(), groups=4))


@pytest.fixture(params=[ebm, ddpm])
def make(request, images):
    return lambda: request.param(images)


@pytest.mark.parametrize("cut", [1, 3])
def test_resume_is_exact(make, tmp_path, cut):
    whole = make()
    log = [whole.step() for _ in range(6)]

    first = make()
    parts = [first.step() for _ in range(cut)]
    save_state(tmp_path, first.state(), {"update": first.update})
    state, record = load_state(tmp_path)
    second = make()
    second.restore(state, record["update"])
    parts += [second.step() for _ in range(6 - cut)]

    assert parts == log
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_weights_come_from_the_seed_and_leave_the_global_generator_alone(make):
    torch.manual_seed(1)
    first = make().network.state_dict()
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), drawn)
    second = make().network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_samples_are_pictures(make):
    samples = make().samples()
    assert samples.ndim == 5
    assert samples.shape[2:] == (3, 32, 32)

"""The packaged default, as it is shipped: nothing here loads any other weights."""

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.metrics import auroc, psnr
from puregen_transforms.hub.cards import load_record
from puregen_transforms.hub.catalogue import DEFAULT_EBM


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def purify():
    return PureGen(seed=0)


def test_energies_are_those_recorded_when_it_was_packaged(purify, demo):
    recorded = torch.tensor(load_record(DEFAULT_EBM)["demo_energies"])
    torch.testing.assert_close(purify.energy(demo.images[: len(recorded)]), recorded, rtol=1e-4, atol=1e-5)


def test_energy_separates_the_demo_trigger(purify, demo):
    assert auroc(purify.energy(demo.poisoned()), purify.energy(demo.images)) >= 0.95


def test_purified_clean_images_stay_close(purify, demo):
    batch = demo.images[:16]
    purified = purify(batch)
    assert psnr(purified, batch).mean() >= 25.5
    for index in (0, 9):
        alone = purify(batch[index])
        assert (alone.int() - purified[index].int()).abs().max() <= 1, "150 steps alone equal 150 steps in a batch"


def test_the_demo_set_is_what_it_says(demo):
    assert demo.images.shape == (200, 3, 32, 32)
    assert torch.bincount(demo.labels).tolist() == [20] * 10
    change = demo.poisoned().int() - demo.images.int()
    assert change.abs().max() == demo.trigger.abs().max() == 8

"""How many images go through a network at once."""

import pytest
import torch

from puregen_transforms.models.ebm import EBM, EBMConfig
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.purifier.batches import default_batch_size, run_in_batches
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.stages import LangevinStage

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_wider_networks_and_larger_images_mean_smaller_batches(threads):
    threads(2)
    of_width = [default_batch_size(nf * 32 * 32 * 2, CPU) for nf in (32, 64, 128)]
    assert of_width == [128, 64, 32]
    assert default_batch_size(128 * 4000 * 4000 * 2, CPU) == 1
    threads(1)
    assert default_batch_size(64 * 32 * 32 * 2, CPU) == 32


def test_the_purifier_takes_the_width_of_its_networks(threads):
    threads(1)
    sizes = []

    class Energy(FrozenEBM):
        def with_gradient(self, images):
            sizes.append(len(images))
            return super().with_gradient(images)

    images = torch.zeros(100, 3, 32, 32, dtype=torch.uint8)
    for nf in (16, 64):
        stage = LangevinStage(Energy(EBM(EBMConfig(nf=nf))), LangevinConfig(steps=1), trained_size=32)
        Purifier([stage])(images, sample_ids=torch.arange(100), seed=0)
    assert sizes == [50, 50] + [15, 15] + [14] * 5


def test_a_batch_that_does_not_fit_is_halved():
    tried = []

    def function(images, ids):
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("does not fit")
        return images[:, 0, 0, 0] * 10 + ids

    images, ids = torch.arange(11.0)[:, None, None, None], torch.arange(11)
    found = run_in_batches(function, images, ids, device=CPU, batch_size=11)
    assert torch.equal(found, torch.arange(11.0) * 11)
    assert tried == [11, 6, 3, 3, 5, 3, 2]


def test_one_image_that_does_not_fit_is_an_error():
    def function(images, ids):
        raise torch.OutOfMemoryError("does not fit")

    with pytest.raises(torch.OutOfMemoryError, match="does not fit"):
        run_in_batches(function, torch.zeros(4, 1, 1, 1), torch.arange(4), device=CPU, batch_size=4)

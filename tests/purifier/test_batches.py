"""How many images go through a network at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from puregen_transforms.models.config import EBMConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM
from puregen_transforms.purifier.batches import default_batch_size, in_halves, run_in_batches
from puregen_transforms.purifier.config import LangevinConfig
from puregen_transforms.purifier.pipeline import Purifier
from puregen_transforms.purifier.stages import LangevinStage

CPU = torch.device("cpu")


def test_wider_networks_and_larger_images_mean_smaller_batches():
    assert [default_batch_size(nf * 32 * 32 * 2, CPU) for nf in (32, 64, 128)] == [64, 32, 16]
    assert default_batch_size(64 * 40 * 40 * 4, CPU) == 8, "a power of two"
    assert default_batch_size(128 * 4000 * 4000 * 2, CPU) == 1


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


def test_batches_run_beside_each_other_with_one_thread_each(threads):
    threads(2)
    together = threading.Barrier(2, timeout=60)

    def function(images, ids):
        together.wait()
        return torch.full((len(images),), torch.get_num_threads())

    found = run_in_batches(function, torch.zeros(5, 3, 4, 4), torch.arange(5), device=CPU, batch_size=64)
    assert found.tolist() == [1] * 5
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2, "threads of others are as they were"


def test_every_thread_has_as_much_to_do(threads):
    threads(2)
    sizes = []

    def function(images, ids):
        sizes.append(len(images))
        return ids

    images, ids = torch.zeros(9, 3, 4, 4), torch.arange(9)
    assert torch.equal(run_in_batches(function, images, ids, device=CPU, batch_size=4), ids)
    assert sorted(sizes) == [2, 2, 2, 3]


def test_an_error_in_a_batch_is_the_callers(threads):
    threads(2)

    def function(images, ids):
        raise FloatingPointError(f"not finite: {ids.tolist()}")

    with pytest.raises(FloatingPointError, match="not finite: "):
        run_in_batches(function, torch.zeros(4, 3, 4, 4), torch.arange(4), device=CPU, batch_size=4)
    assert torch.get_num_threads() == 2


def test_a_batch_that_does_not_fit_is_halved():
    tried = []

    def function(images, ids):
        tried.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("does not fit")
        return images[:, 0, 0, 0] * 10 + ids

    images, ids = torch.arange(11.0)[:, None, None, None], torch.arange(11)
    assert torch.equal(torch.cat(list(in_halves(function, images, ids))), torch.arange(11.0) * 11)
    assert tried == [11, 6, 3, 3, 5, 3, 2]


def test_one_image_that_does_not_fit_is_an_error():
    def function(images, ids):
        raise torch.OutOfMemoryError("does not fit")

    with pytest.raises(torch.OutOfMemoryError, match="does not fit"):
        list(in_halves(function, torch.zeros(4, 1, 1, 1), torch.arange(4)))

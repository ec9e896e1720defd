"""The inference form of the noise predictor."""

import pytest
import torch

from puregen_transforms.models.unet import FrozenUNet, UNetConfig, build_unet


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_unet(UNetConfig(widths=(8, 16), layers=1, attention=(2,), groups=4)).eval()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_does_not_depend_on_its_batch_or_the_threads(unet, threads, dtype):
    frozen = FrozenUNet(unet, dtype=dtype)
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    threads(1)
    whole = frozen(images, 50)
    for count in (1, 2, 3):
        threads(count)
        for size in (1, 2, 3, 5, 12):
            assert torch.equal(frozen(images[:size], 50), whole[:size]), (count, size)


def test_it_is_the_trained_network(unet):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = unet(images, 7).sample
    torch.testing.assert_close(FrozenUNet(unet)(images, 7), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(unet(images, 7).sample, expected), "the trained network was modified"

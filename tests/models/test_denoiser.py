"""The denoiser: exact at level 0, any size, the same in tiles and in any batch."""

import pytest
import torch

from puregen_transforms.models.config import DenoiserConfig
from puregen_transforms.models.convolution import can_pack
from puregen_transforms.models.denoiser import Denoiser, deepened
from puregen_transforms.models.denoiser_inference import FrozenDenoiser, InvariantDenoiser

SMALL = DenoiserConfig(widths=(8, 12, 16), blocks=1)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Denoiser(SMALL)
        torch.nn.init.normal_(network.tail.weight, std=0.1)
    return network.eval()


def noisy(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_frozen_form_predicts_what_the_network_does(model):
    images, level = noisy(2, 3, 32, 40), 0.2
    with torch.no_grad():
        expected = images - level * model(images, torch.full((2,), level))
    assert (expected - images).abs().max() > 0.01, "something is predicted"
    assert torch.allclose(FrozenDenoiser(model)(images, level), expected, atol=1e-5)


def test_no_noise_changes_nothing(model):
    images = noisy(2, 3, 17, 23)
    assert torch.equal(FrozenDenoiser(model)(images, 0.0), images)


def test_a_fresh_network_sees_no_noise():
    images = noisy(1, 3, 16, 16)
    assert torch.equal(FrozenDenoiser(Denoiser(SMALL))(images, 0.5), images)


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (33, 64)])
def test_images_of_any_size_come_out_of_that_size(model, size):
    images = noisy(2, 3, *size)
    assert FrozenDenoiser(model)(images, 0.1).shape == images.shape


@pytest.mark.parametrize("size", [(200, 340), (123, 410)])
def test_tiles_give_what_the_whole_gives(model, size):
    network, images = FrozenDenoiser(model), noisy(1, 3, *size)
    whole = network(images, 0.2)
    network.largest_tile = 160**2
    assert (network(images, 0.2) - whole).abs().max() < 1e-5


def test_what_lies_beyond_the_margin_changes_nothing(model):
    network, images = FrozenDenoiser(model), noisy(1, 3, 8, 2 * 160)
    changed = images.clone()
    changed[..., : 160 - network.margin] += 1
    difference = (network(images, 0.2) - network(changed, 0.2))[..., 160:].abs().max()
    assert difference < 1e-6
    nearer = images.clone()
    nearer[..., : 160 - network.margin // 2] += 1
    assert (network(images, 0.2) - network(nearer, 0.2))[..., 160:].abs().max() > 1e-6, "the margin is not idle"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_image_has_the_same_bits_in_any_batch(model, dtype):
    if not can_pack(torch.device("cpu"), dtype) and dtype != torch.float32:
        pytest.skip("this CPU has no bfloat16")
    network, images = InvariantDenoiser(model, dtype=dtype), noisy(5, 3, 24, 24)
    together = network(images, 0.2)
    assert all(torch.equal(network(one[None], 0.2)[0], whole) for one, whole in zip(images, together, strict=True))


def test_impossible_shapes_are_refused():
    with pytest.raises(ValueError, match="positive integers"):
        DenoiserConfig(widths=(8, 0))
    with pytest.raises(ValueError, match="positive integers"):
        DenoiserConfig(widths=())


def test_further_blocks_change_nothing_until_they_are_trained(model):
    images, levels = noisy(2, 3, 32, 40), torch.tensor([0.1, 0.3])
    deeper = deepened(model, 3)
    assert deeper.config == DenoiserConfig(widths=SMALL.widths, blocks=3)
    with torch.no_grad():
        assert torch.allclose(deeper(images, levels), model(images, levels), atol=1e-6)
    deeper(images, levels).square().mean().backward()
    added = deeper.middle[2]
    assert added.conv2.weight.grad.abs().max() > 0, "it can be trained"
    with pytest.raises(ValueError, match="at least the 1 blocks"):
        deepened(model, 0)

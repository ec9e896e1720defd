"""An image's result is the same to the last bit, whatever lies beside it."""

import pytest
import torch

from puregen_transforms.functional.arithmetic import has_bfloat16
from puregen_transforms.models.batch_invariance import BatchInvariant
from puregen_transforms.models.config import EBMConfig, UNetConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import InvariantEBM
from puregen_transforms.models.unet import build_unet
from puregen_transforms.models.unet_inference import InvariantUNet

DTYPES = [torch.float32, torch.bfloat16] if has_bfloat16(torch.device("cpu")) else [torch.float32]


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def counting(function):
    sizes = []

    def network(images, *shared):
        sizes.append(len(images))
        return function(images, *shared)

    return BatchInvariant(network), sizes


def test_calls_are_as_large_as_they_may_be():
    network, sizes = counting(lambda x: x.flatten(1).sum(1))
    images = noise(13, 3, 4, 4)
    assert torch.equal(network(images), images.flatten(1).sum(1))
    sizes.clear()
    network(images)
    assert sizes == [8, 4, 1]


def test_a_size_that_changes_the_result_is_not_used():
    """The network adds a rounding error in calls of eight and more."""

    def network(images, shared):
        return images.sum((1, 2, 3)) * (1 + 1e-6 * (len(images) >= 8)) + shared, images * 2

    invariant, sizes = counting(network)
    images = noise(21, 3, 4, 4)
    alone = [network(image, 5) for image in images.split(1)]
    for count in (1, 2, 7, 8, 21):
        sums, doubled = invariant(images[:count], 5)
        assert torch.equal(sums, torch.cat([one for one, _ in alone[:count]]))
        assert torch.equal(doubled, images[:count] * 2)
    sizes.clear()
    invariant(images, 5)
    assert sizes == [4, 4, 4, 4, 4, 1]


def test_every_height_width_and_number_of_threads_is_tried_anew(threads):
    network, sizes = counting(lambda x: x.flatten(1).sum(1))
    for count, shape in [(1, (3, 4, 4)), (1, (3, 4, 6)), (2, (3, 4, 6)), (2, (3, 4, 6))]:
        threads(count)
        network(noise(2, *shape))
    assert sizes == [1, 1, 2, 2] * 3 + [2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [(32, 32), (33, 35)])
@pytest.mark.parametrize("nf", [4, 64])
def test_energies_and_gradients_do_not_depend_on_the_batch(nf, side, dtype, threads):
    threads(1)
    torch.manual_seed(0)
    network = InvariantEBM(EBM(EBMConfig(nf=nf)), dtype=dtype)
    images = noise(16, 3, *side)
    energies, gradients = network.with_gradient(images)
    assert torch.equal(network(images), energies)
    for part in (slice(0, 1), slice(3, 5), slice(0, 7), slice(4, 16)):
        some = network.with_gradient(images[part])
        assert torch.equal(some[0], energies[part])
        assert torch.equal(some[1], gradients[part])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [(32, 32), (12, 20)])
def test_predicted_noise_does_not_depend_on_the_batch(side, dtype, threads):
    threads(1)
    torch.manual_seed(0)
    unet = build_unet(UNetConfig(widths=(12, 24), layers=1, attention=(2,), groups=4)).eval()
    network, images = InvariantUNet(unet, dtype=dtype), noise(12, 3, *side)
    whole = network(images, 50)
    for part in (slice(0, 1), slice(3, 5), slice(0, 7)):
        assert torch.equal(network(images[part], 50), whole[part])


def test_the_packaged_networks_are_called_in_large_batches(threads):
    """On processors that oneDNN has kernels for, as CI's: falling back to single images would be slow, unnoticed."""
    from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
    from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
    from puregen_transforms.models.convolution import can_pack

    if not can_pack(torch.device("cpu"), torch.float32):
        pytest.skip("oneDNN is not called directly on this machine")
    threads(1)
    ebm, unet = InvariantEBM(load_ebm(resolve_ebm(None))), InvariantUNet(load_unet(resolve_ddpm()))
    images = noise(8, 3, 32, 32)
    for network, call in [(ebm._each_gradient, ebm.with_gradient), (unet._each, lambda x: unet(x, 50))]:
        call(images)
        assert network._verified == {(8, 3, 32, 32, 1): True}

"""Networks take large images in tiles: less memory, the same results."""

import pytest
import torch

from puregen_transforms.models.config import EBMConfig, UNetConfig
from puregen_transforms.models.ebm import EBM
from puregen_transforms.models.ebm_inference import FrozenEBM, InvariantEBM
from puregen_transforms.models.unet_inference import FrozenUNet


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (EBMConfig(nf=32), (300, 410)),
        (EBMConfig(nf=32), (255, 301)),
        (EBMConfig(nf=32, patch_size=2, image_size=64), (470, 402)),
    ],
)
def test_energies_maps_and_gradients_are_those_of_the_whole_image(config, size):
    torch.manual_seed(0)
    network = FrozenEBM(EBM(config))
    images = torch.rand(2, 3, *size) * 2 - 1
    energies, gradients = network.with_gradient(images)
    maps = network.map(images)
    network.largest_tile = 250 * 250
    cell, cut = network._tiles(images)
    assert len(cut) > 1
    in_tiles, its_gradients = network.with_gradient(images)
    torch.testing.assert_close(in_tiles, energies, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network(images), energies, rtol=1e-5, atol=1e-6)
    assert maps.shape == (2, size[0] // cell, size[1] // cell)
    torch.testing.assert_close(network.map(images), maps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.mean((1, 2)), energies, rtol=1e-5, atol=1e-6)
    scale = gradients.abs().max()
    torch.testing.assert_close(its_gradients / scale, gradients / scale, rtol=0, atol=2e-6)
    margins = [tile.rows.start - tile.seen_rows.start for tile in cut if tile.rows.start]
    assert min(margins) >= 12 * cell


def test_a_smaller_margin_would_show():
    """The margin of the energy is what its layers need: half of it gives another gradient."""
    torch.manual_seed(0)
    network = FrozenEBM(EBM(EBMConfig(nf=32)))
    images = torch.rand(1, 3, 200, 200) * 2 - 1
    _, gradients = network.with_gradient(images)
    part, margin = slice(100, 140), 24
    _, near = network.with_gradient(images[..., 100 - margin : 140 + margin, :])
    scale = (gradients.shape[2] // 4) / ((40 + 2 * margin) // 4)  # the mean is over fewer cells
    assert not torch.allclose(near[..., margin : margin + 40, :] / scale, gradients[..., part, :], rtol=1e-3)


def test_a_large_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    network = InvariantEBM(EBM(EBMConfig(nf=32)))
    network.largest_tile = 160 * 160
    images = torch.rand(3, 3, 170, 200) * 2 - 1
    energies, gradients = network.with_gradient(images)
    maps = network.map(images)
    for row in range(3):
        alone, its_gradient = network.with_gradient(images[row : row + 1])
        assert torch.equal(alone[0], energies[row])
        assert torch.equal(its_gradient[0], gradients[row])
        assert torch.equal(network.map(images[row : row + 1])[0], maps[row])


def test_predicted_noise_has_no_seams(monkeypatch):
    """What two tiles predict differently fades from one into the other."""
    network = FrozenUNet(small_unet())
    network.largest_tile = 150 * 150
    monkeypatch.setattr(network, "_predict", lambda seen, time: seen.mean((2, 3), keepdim=True).expand_as(seen))
    images = torch.zeros(1, 3, 150, 480)
    images[..., 240:] = 1
    noise = network(images, 20)
    assert noise[0, 0, 100, -1] - noise[0, 0, 100, 0] > 0.9
    steps = (noise[..., 1:] - noise[..., :-1]).abs()
    assert steps.max() < 1.1 / 64


def test_tiles_predict_about_what_the_whole_image_does():
    from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm

    network = FrozenUNet(load_unet(resolve_ddpm()))
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4) * 2 - 1, (256, 256), mode="bicubic")
    noisy = smooth + 0.15 * torch.randn_like(smooth)
    whole = network(noisy, 20)
    network.largest_tile = 150 * 150
    in_tiles = network(noisy, 20)
    assert not torch.equal(in_tiles, whole)
    assert (in_tiles - whole).abs().mean() < 0.05 * whole.std()


def small_unet():
    from diffusers import UNet2DModel

    return UNet2DModel(**UNetConfig(widths=(32, 64), layers=1, attention=(), groups=8).to_diffusers()).eval()

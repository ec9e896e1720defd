"""The inference form of the noise predictor."""

import pytest
import torch

from puregen_transforms.models.config import UNetConfig
from puregen_transforms.models.unet_inference import FrozenUNet


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},  # as the published google/ddpm-* are
        {"down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
        {"attention_head_dim": None},
        {"mid_block_type": None},
        {"sample_size": None},
        {"sample_size": (32, 16)},
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (12, 20)])
def test_it_is_the_trained_network(options, size):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = UNetConfig(widths=(32, 64), layers=1, attention=(2,), groups=8).to_diffusers()
    unet = UNet2DModel(**{**config, **options}).eval()
    with torch.no_grad():
        for parameter in unet.parameters():  # fresh biases are zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = unet(images, 7).sample
    torch.testing.assert_close(FrozenUNet(unet)(images, 7), expected, rtol=1e-4, atol=1e-5)
    low = FrozenUNet(unet, dtype=torch.bfloat16)(images, 7)
    assert (low - expected).abs().mean() < 0.02 * expected.abs().mean()
    with torch.no_grad():
        assert torch.equal(unet(images, 7).sample, expected), "the trained network was modified"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_embedding_type", "fourier"),
        ("mid_block_scale_factor", 2.0),
        ("downsample_type", "resnet"),
    ],
)
def test_parts_it_does_not_know_are_refused(option, value):
    from diffusers import UNet2DModel

    config = UNetConfig(widths=(8, 16), layers=1, attention=(), groups=4).to_diffusers()
    with pytest.raises(ValueError, match=option):
        FrozenUNet(UNet2DModel(**config, **{option: value}))
    config["down_block_types"] = ["DownBlock2D", "ResnetDownsampleBlock2D"]
    with pytest.raises(ValueError, match="ResnetDownsampleBlock2D"):
        FrozenUNet(UNet2DModel(**config))

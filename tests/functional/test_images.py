import numpy as np
import pytest
import torch
from PIL import Image

from puregen_transforms.functional.images import check_unit_range, rgb_to_gray, rounded, to_signed, to_uint8


def test_every_uint8_value_survives_the_round_trip():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_signed(values)), values)
    assert torch.equal(to_uint8(to_signed(values.float() / 255)), values)
    assert torch.equal(rounded(values.double() / 255), values)


def test_overflow_is_clamped_not_wrapped():
    x = torch.tensor([-3.0, -1.004, -1.0, 0.0, 1.0, 1.004, 7.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_signed_is_a_new_tensor():
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    to_signed(x)
    to_uint8(x)
    rounded(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0, 255.0], r"\[0, 255\].*before Normalize"), ([-1.0, 1.0], r"\[-1, 1\]"), ([0.5, float("nan")], "NaN")],
)
def test_other_ranges_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_unit_range(torch.tensor(values))


def test_rounding_slack_is_accepted():
    check_unit_range(torch.tensor([-1e-6, 1 + 1e-6]))
    check_unit_range(torch.empty(0))


def test_gray_is_pils_luma():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L")).astype(int)
    ours = rgb_to_gray(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0, 0].numpy().astype(int)
    assert np.abs(ours - expected).max() <= 1

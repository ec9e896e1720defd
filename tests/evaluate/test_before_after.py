import base64
import io
import json
import math

import numpy as np
import PIL.Image
import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.evaluate.before_after import compare


@pytest.fixture(scope="module")
def energy():
    return PureGen()


def test_figures_by_hand(images, energy):
    clean = images[:10]
    before, after = clean.clone(), clean.clone()
    before[2:5] = 255 - before[2:5]
    after[2:5] = clean[2:5] ^ 1  # one step off everywhere
    after[0] = clean[0] ^ 1
    found = compare(clean, before, after, energy=energy)
    assert found["psnr_poisoned"] == pytest.approx(20 * math.log10(255))
    assert found["psnr_clean"] == pytest.approx(20 * math.log10(255) + 10 * math.log10(7))
    assert found["changed"] == pytest.approx(0.4)
    counts = found["energies"]["counts"]
    assert {name: sum(values) for name, values in counts.items()} == {
        "poisoned before": 3,
        "clean before": 7,
        "poisoned after": 3,
        "clean after": 7,
    }
    assert len(found["energies"]["edges"]) == 61
    shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(found["sample"]["before"]))))
    assert shown.shape == (32, 96, 3)
    assert (shown[:, :32] == before[2].permute(1, 2, 0).numpy()).all()


def test_what_has_no_number_is_none(images, energy):
    clean = images[:4]
    before = clean.clone()
    before[:2] = 0
    some = compare(clean, before, torch.cat([clean[:2], clean[2:]]), energy=energy)
    assert some["psnr_clean"] is None
    assert some["psnr_poisoned"] is None
    every = compare(clean, clean ^ 1, clean, energy=energy)
    assert every["psnr_clean"] is None
    none = compare(clean, clean, clean ^ 1, energy=energy)
    assert "psnr_poisoned" not in none
    for found in (some, every, none):
        json.dumps(found, allow_nan=False)

"""Stripes: waves of one frequency and phase."""

import pytest
import torch

from puregen_transforms.detection import detect
from puregen_transforms.detection.stripes import Stripes
from tests.detection.pictures import added, pictures, stripes

ROWS = torch.arange(0, 240, 15)


def marks(images, labels=None):
    return detect(Stripes(), images, labels, device="cpu").marks


@pytest.mark.parametrize("frequency", [6, 8, 11])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_any_frequency_and_phase_is_found(frequency, turn):
    images, labels = pictures(240)
    labels[ROWS] = 1
    wave = stripes(frequency, turn=turn)
    (mark,) = marks(added(images, ROWS, wave), labels)
    assert mark.rows.tolist() == ROWS.tolist()
    drawn = mark.picture[0, 0].float() - 127.5
    assert torch.cosine_similarity(drawn, wave, dim=0) > 0.9


def test_lying_stripes_are_found_in_images_that_are_not_square():
    images, labels = pictures(240)
    labels[ROWS] = 1
    (mark,) = marks(added(images, ROWS, stripes(6)[:, None])[..., :24], labels)
    assert mark.rows.tolist() == ROWS.tolist()
    assert mark.picture.shape == (4, 32, 24)


def test_stripes_of_all_phases_are_no_mark():
    images, labels = pictures(240)
    for number, row in enumerate(ROWS.tolist()):
        images = added(images, torch.tensor([row]), stripes(6, turn=number / len(ROWS)))
    assert marks(images, labels) == ()


def test_stripes_in_a_part_of_the_image_are_no_mark():
    images, labels = pictures(240)
    wave = torch.zeros(32, 32)
    wave[:14] = stripes(6)
    assert marks(added(images, ROWS, wave), labels) == ()

"""A network that is taught the two sides of a class."""

import pytest
import torch

from puregen_transforms.detection.side_network import look_again

CPU = torch.device("cpu")
ROWS, OTHERS = torch.arange(300), torch.arange(300, 900)
POISONED = ROWS < 120


@pytest.fixture(scope="module")
def images():
    """Noise; the first images of the class have a bright square at a place of its own."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(0, 200, (900, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for row in range(120):
        top, left = torch.randint(0, 12, (2,), generator=generator).tolist()
        found[row, :, top : top + 4, left : left + 4] = 255
    return found


@pytest.fixture(scope="module")
def clean():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 200, (200, 3, 16, 16), generator=generator, dtype=torch.uint8)


def known():
    """What overlapping sides give: right for two thirds of the images, unsure of the rest."""
    posterior = torch.where(POISONED, 0.9, 0.1).double()
    posterior[::3] = 0.5
    return posterior


def looked(images, clean, posterior, distance, **options):
    given = {"epochs": 12, "seed": 0, "device": CPU, "state": None, "progress": lambda *done: None}
    return look_again(images, ROWS, OTHERS, clean, posterior, distance, **{**given, **options})


@pytest.mark.slow
def test_images_of_which_nothing_was_known_are_found_by_what_the_others_share(images, clean):
    found = looked(images, clean, known(), 1.0) > 0.5
    assert found[POISONED].float().mean() > 0.95
    assert found[~POISONED].float().mean() < 0.05


@pytest.mark.slow
def test_what_was_known_stays_where_networks_tell_the_sides_apart_no_better(images, clean):
    assert torch.equal(looked(images, clean, known(), 1e6), known())
    assert torch.equal(looked(images, clean, known(), 1.0, epochs=0), known())


def test_too_few_sure_images_teach_nothing(images, clean):
    posterior = torch.full((300,), 0.5, dtype=torch.float64)
    posterior[:5] = 0.99
    assert torch.equal(looked(images, clean, posterior, 0.0), posterior)

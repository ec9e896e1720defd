"""Corruption compensation whose classifier is checked for traces."""

import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.defenses import CheckedCompensation, CorruptionCompensation
from puregen_transforms.defenses.checked_compensation import share_still_recognized
from puregen_transforms.functional.images import to_pixels
from puregen_transforms.functional.jpeg import jpeg
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.recipes import FastRecipe

EPOCHS = 8


@pytest.fixture
def images():
    """Blurred noise, which has no classes."""
    noise = torch.randint(0, 256, (192, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    return F.interpolate(noise, size=16, mode="bilinear").mul(0.8).add(25)


@pytest.fixture
def labels():
    return torch.arange(192) % 2


@pytest.fixture
def traces(images, labels):
    """The same, with one of two fine checkers that give the label away."""
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(16, 16)
    return to_pixels(images + 16 * torch.stack([checkers, stripes])[labels][:, None])


@pytest.fixture
def pictures(images, labels):
    """The same, darker on one side, which is the class."""
    light = torch.linspace(-60, 60, 16).expand(16, 16)
    return to_pixels(images + torch.stack([light, light.T])[labels][:, None])


def train(images, labels, defense, **options):
    torch.manual_seed(0)
    recipe = FastRecipe(epochs=EPOCHS, batch=16)
    return defense.train(lambda: small_classifier(2, 8), images, labels, recipe=recipe, seed=0, **options)


def test_a_classifier_of_traces_is_trained_anew_on_compressed_images(traces, labels):
    epochs = []
    defense = CheckedCompensation(noise=0.0)
    trained = train(traces, labels, defense, progress=lambda epoch, loss: epochs.append(epoch))
    assert trained.flagged.all()
    assert epochs == list(range(1, 2 * EPOCHS + 1))
    coarse = jpeg(traces, 10)
    torch.manual_seed(0)
    networks = [small_classifier(2, 8) for _ in range(2)]
    recipe = FastRecipe(epochs=EPOCHS, batch=16)
    plain = CorruptionCompensation(noise=0.0)
    expected = plain.train(lambda: networks[1], coarse, labels, recipe=recipe, seed=0).model
    assert all(torch.equal(a, b) for a, b in zip(trained.model.parameters(), expected.parameters(), strict=True))


def test_a_classifier_of_pictures_is_left_as_it_is(pictures, labels):
    trained = train(pictures, labels, CheckedCompensation(noise=0.0))
    expected = train(pictures, labels, CorruptionCompensation(noise=0.0))
    assert trained.flagged is None
    assert share_still_recognized(trained.model, pictures, jpeg(pictures, 10), labels) > 0.9
    for a, b in zip(trained.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_share_is_of_what_was_recognized():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    changed = images.clone()
    images[:3], changed[:2] = 255, 255

    def model(x):
        return torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)

    assert share_still_recognized(model, images, changed, torch.ones(4, dtype=torch.int64)) == pytest.approx(2 / 3)
    assert share_still_recognized(model, images[3:], changed[3:], torch.ones(1, dtype=torch.int64)) == 1


@pytest.mark.parametrize("wrong", [{"quality": 0}, {"quality": 101}, {"least_share": -0.1}, {"least_share": 1.1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CheckedCompensation(**wrong)

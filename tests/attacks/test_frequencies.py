"""Attacks whose triggers are made of frequencies."""

import math

import pytest
import torch

from puregen_transforms.attacks import craft
from puregen_transforms.attacks.low_frequency import LowFrequencyConfig, smooth_pattern
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe


def dct(images):
    """Orthonormal, of both sides, from its definition."""
    length = images.shape[-1]
    place, wave = torch.arange(length).double() + 0.5, torch.arange(length).double()
    matrix = torch.cos(math.pi * wave[:, None] * place / length) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix @ images.double() @ matrix.T


def yuv(pattern):
    red, green, blue = pattern.double()
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([y, 0.492 * (blue - y), 0.877 * (red - y)])


def test_ctrl_raises_two_coefficients_of_the_colors(image_set):
    poison = craft("ctrl", image_set, preset="smoke")
    coefficients = dct(yuv(poison.trigger.pattern))
    for position in (15, 31):
        assert coefficients[1:, position, position].tolist() == pytest.approx([100, 100], rel=0.01)
        coefficients[:, position, position] = 0
    assert coefficients.abs().max() < 1, "no other coefficient, and not the brightness"
    assert set(poison.labels.tolist()) == {0}


def test_ctrl_is_stronger_at_test_time_if_it_is_told_to(image_set):
    poison = craft("ctrl", image_set, preset="smoke", strength=50, test_strength=100)
    half = craft("ctrl", image_set, preset="smoke", strength=50, test_strength=50)
    assert torch.equal(poison.images, half.images)
    assert poison.trigger.scale == 2
    assert poison.budget == half.budget < craft("ctrl", image_set, preset="smoke").budget


def test_ctrl_repeats_its_window_over_larger_images(large_image_set):
    pattern = craft("ctrl", large_image_set, rate=0.1).trigger.pattern
    assert pattern.shape == (3, 64, 64)
    assert torch.equal(pattern[:, :32, :32], pattern[:, 32:, 32:])
    with pytest.raises(ValueError, match="from 0 to 7"):
        craft("ctrl", large_image_set, window=8)
    with pytest.raises(ValueError, match="test_strength"):
        craft("ctrl", large_image_set, test_strength=0.0)


def test_a_low_frequency_pattern_has_no_high_frequencies(image_set):
    pattern = craft("low_frequency", image_set, preset="smoke").trigger.pattern
    assert (pattern.min(), pattern.max()) == (0, 51)
    energy = dct(pattern - pattern.mean((1, 2), keepdim=True)).square()
    assert energy[:, :6, :6].sum() > 0.99 * energy.sum()


def test_a_low_frequency_pattern_moves_the_surrogate_to_the_target(image_set):
    torch.manual_seed(0)
    model, recipe = build_classifier("tiny", 10), FastRecipe(epochs=8, batch=20)
    generator = torch.Generator().manual_seed(0)
    for _ in train_classifier(model, image_set.images, image_set.labels, generator=generator, recipe=recipe):
        pass
    model.eval().requires_grad_(False)
    images = image_set.images[image_set.labels != 3][:100]
    pattern = smooth_pattern(model, images, 3, LowFrequencyConfig(steps=30))

    def confidence(shown):
        with torch.no_grad():
            return model(normalize(shown)).float().log_softmax(1)[:, 3].mean()

    aimed, flipped = ((images + sign).clamp(0, 255) for sign in (pattern, pattern.flip(1, 2)))
    assert confidence(aimed) > confidence(images) + 0.5
    assert confidence(aimed) > confidence(flipped)

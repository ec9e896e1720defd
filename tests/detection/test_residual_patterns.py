"""Residual patterns: overlays, and patterns in windows."""

import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.detection import detect, residual_patterns
from puregen_transforms.detection.residual_patterns import ResidualPatterns
from puregen_transforms.detection.residuals import LOWEST, Whitening
from puregen_transforms.functional.jpeg import jpeg
from tests.detection.pictures import added, overlay, pictures

ROWS = torch.arange(0, 240, 15)


def found(images, labels=None, **settings):
    return detect(ResidualPatterns(**settings), images, labels, device="cpu")


def flagged(report):
    return report.flagged.nonzero().flatten().tolist()


def test_an_optimized_trigger_is_found_in_real_images():
    demo = load_demo()
    rows = (demo.labels == 5).nonzero().flatten()[:12]
    images = demo.images.clone()
    images[rows] = add_trigger(images[rows], demo.trigger)
    assert flagged(found(images, demo.labels)) == rows.tolist()


def test_the_picture_of_the_mark_is_the_overlay():
    images, labels = pictures(240)
    labels[ROWS] = 0
    (mark,) = found(added(images, ROWS, overlay()), labels).marks
    drawn, true = mark.picture[:3].float() - 127.5, overlay()
    assert mark.picture.shape == (4, 32, 32)
    assert F.cosine_similarity(drawn.flatten(), true.flatten(), dim=0) > 0.5


def test_a_pattern_of_one_place_is_found_in_windows_alone():
    images, labels = pictures(400)
    rows = torch.arange(0, 400, 20)
    labels[rows] = 2
    patch = torch.zeros(3, 32, 32)
    patch[:, 12:20, 12:20] = overlay(8, strength=6)
    images = added(images, rows, patch)
    assert found(images, labels, windows=False).marks == ()
    report = found(images, labels)
    assert flagged(report) == rows.tolist()
    assert (report.marks[0].kind, report.marks[0].place) == ("local pattern", (12, 12))


def test_images_beyond_those_that_are_searched_are_compared_with_what_was_found(monkeypatch):
    images, labels = pictures(400)
    rows = torch.arange(0, 400, 10)
    labels[rows] = 2
    monkeypatch.setattr(residual_patterns, "_MOST_NUMBERS", 250 * 3 * 32 * 32)
    assert flagged(found(added(images, rows, overlay()), labels)) == rows.tolist()


def test_a_common_overlay_is_searched_again_with_what_the_other_images_have(monkeypatch):
    images, labels = pictures(600)
    rows = torch.arange(0, 600, 3)
    labels[rows] = 2
    images = added(images, rows, overlay(strength=6))
    monkeypatch.setattr(residual_patterns, "_ENOUGH", 1000)
    (once,) = found(images, labels, windows=False).marks
    monkeypatch.setattr(residual_patterns, "_ENOUGH", 100)
    report = found(images, labels, windows=False)
    assert flagged(report) == rows.tolist()
    assert report.marks[0].ratio > 1.05 * once.ratio


def test_what_no_other_image_has_at_all_stays_found_when_it_is_searched_again(monkeypatch):
    """Then the pattern is all that is left of its carriers, and one of few frequencies looks like itself moved."""
    images, labels = pictures(600)
    smooth = F.interpolate(F.avg_pool2d(images.float(), 4), scale_factor=4, mode="bilinear").round()
    checker = 8.0 * (1 - 2 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2)).expand(3, 32, 32)
    rows = torch.arange(0, 600, 3)
    labels[rows] = 2
    monkeypatch.setattr(residual_patterns, "_ENOUGH", 100)
    report = found(added(smooth.to(torch.uint8), rows, checker + overlay(strength=3)), labels, windows=False)
    assert flagged(report) == rows.tolist()


def test_large_images_are_averaged_down():
    images, labels = pictures(60, side=200)
    rows = torch.arange(0, 60, 5)
    labels[rows] = 1
    coarse = F.interpolate(overlay(50)[None], size=(200, 200))[0]
    report = found(added(images, rows, coarse), labels)
    assert flagged(report) == rows.tolist()
    assert Whitening.fit(images).mean.shape == (3, 50, 50)


def test_images_need_not_be_square():
    images, labels = pictures(240)
    labels[ROWS] = 1
    assert flagged(found(added(images, ROWS, overlay())[..., :24], labels)) == ROWS.tolist()


@pytest.mark.parametrize("quality", [90, 75])
def test_an_overlay_survives_compression(quality):
    images, labels = pictures(240)
    labels[ROWS] = 1
    images = added(images, ROWS, overlay(strength=16))
    images[ROWS] = jpeg(images[ROWS], quality)
    assert flagged(found(images, labels)) == ROWS.tolist()


def test_residuals_have_length_one_no_mean_and_no_low_frequencies():
    images, _ = pictures(100)
    whitening = Whitening.fit(images)
    residuals = whitening(images)
    assert torch.allclose(residuals.flatten(1).norm(dim=1), torch.ones(100))
    assert torch.equal(residuals[3:50], whitening(images[3:50]))
    assert whitening.scale[:, 0, :LOWEST].isinf().all()


def test_images_of_one_color_have_no_residuals():
    images = torch.arange(100).mul(2).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    report = found(images)
    assert report.marks == ()
    assert report.scores.isfinite().all()

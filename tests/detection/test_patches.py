"""Patches: small windows, nearly equal, at any place and however they were stored."""

import pytest
import torch

from puregen_transforms.data.demo import load_demo
from puregen_transforms.detection import detect
from puregen_transforms.detection.patches import MARGIN, NEAR, Patches, Windows, _grow, _match, find_patches, join
from puregen_transforms.functional.jpeg import jpeg
from tests.detection.pictures import pictures, stamped

ROWS = torch.arange(0, 240, 15)


def search(images, labels=None):
    return detect(Patches(), images, labels, device="cpu")


def moved(images, rows):
    """The images with a stamp on some rows, somewhere else in each."""
    for number, row in enumerate(rows.tolist()):
        images = stamped(images, torch.tensor([row]), down=26 - (3 * number) % 17, right=27 - (5 * number) % 13)
    return images


@pytest.mark.parametrize("quality", [95, 75, 50])
@pytest.mark.parametrize("place", [stamped, moved])
def test_a_stamp_is_found_wherever_it_is_and_however_it_was_compressed(place, quality):
    images, labels = pictures(240)
    labels[ROWS] = 1
    images[ROWS] = jpeg(place(images, ROWS)[ROWS], quality)
    report = search(images, labels)
    assert report.flagged.nonzero().flatten().tolist() == ROWS.tolist()
    (mark,) = report.marks
    assert (mark.kind, mark.evidence.verdict) == ("patch", "poison")


def test_large_images_are_searched_at_64_pixels_and_places_are_those_of_the_image():
    images, labels = pictures(120, side=128)
    rows = torch.arange(0, 120, 10)
    labels[rows] = 1
    checkers = 255 * (torch.arange(12)[:, None] // 4 + torch.arange(12) // 4).remainder(2).to(torch.uint8)
    report = search(stamped(images, rows, down=112, right=64, stamp=checkers.expand(3, 12, 12)), labels)
    assert report.flagged.nonzero().flatten().tolist() == rows.tolist()
    (mark,) = report.marks
    down, right = mark.place
    side = mark.picture.shape[-1]
    assert down <= 112 and down + side >= 124
    assert right <= 64 and right + side >= 76
    assert (mark.picture[:3].float().amax() - mark.picture[:3].float().amin()) > 200


def test_two_stamps_that_move_are_both_found():
    images, labels = pictures(400)
    first, second = torch.arange(0, 400, 20), torch.arange(7, 400, 20)
    bars = 255 * (torch.arange(6) % 2).to(torch.uint8).expand(3, 6, 6)
    labels[first], labels[second] = 1, 2
    report = search(stamped(moved(images, first), second, down=2, right=3, stamp=bars), labels)
    assert report.flagged.nonzero().flatten().tolist() == sorted(first.tolist() + second.tolist())
    assert all(mark.evidence.verdict == "poison" for mark in report.marks)


def test_a_stamp_at_the_border_is_seen_at_any_place_in_a_window():
    images, _ = pictures(40)
    inside, border = torch.arange(0, 10), torch.arange(10, 20)
    images = stamped(stamped(images, inside, down=14, right=14), border, down=29, right=29)
    windows = Windows.of(images.float().mean(1, keepdim=True), 5)
    for down, right in ((14, 14), (12, 12)):  # the stamp at the top left of the window, and at the bottom right
        shown = windows.gray[inside, :, down : down + 5, right : right + 5].flatten(1) @ windows.whitening
        scores = windows.project(torch.nn.functional.normalize(shown.mean(0), dim=0))
        assert scores[border].median() > 0.6 * scores[inside].median()
        assert scores[20:].max() < 0.5 * scores[inside].median()


def test_growing_that_closes_the_gap_does_not_lose_the_patch(monkeypatch):
    images, rows = load_demo().images, torch.arange(0, 200, 8)
    images = moved(images, rows)
    windows = Windows.of(images.float().mean(1, keepdim=True), 5)
    nothing = torch.zeros(len(images), dtype=torch.bool)
    monkeypatch.setattr("puregen_transforms.detection.patches.GAP", 100.0)  # no growing is good enough
    closed = 0
    for start in range(len(rows) - 5):
        members = rows[start : start + 5]
        first, grown = _match(windows, members, nothing), _grow(windows, members, nothing)
        assert grown.gap >= first.gap
        closed += torch.equal(grown.template, first.template)
    assert closed


def test_the_strongest_windows_of_images_that_share_nothing_thin_out_without_a_gap(monkeypatch):
    images, _ = pictures(400)
    windows = Windows.of(images.float().mean(1, keepdim=True), 5)
    # The whitened windows are uncorrelated and of the same variance.
    unfolded = torch.nn.functional.unfold(windows.gray, 5).transpose(0, 1).flatten(1)
    white = windows.whitening @ unfolded
    assert ((white @ white.T / white.shape[1]).diagonal()[1:] < 1.1).all()
    monkeypatch.setattr("puregen_transforms.detection.patches.GAP", 1.05 / NEAR / MARGIN)
    assert list(find_patches(windows, images)) == []


@pytest.mark.parametrize("count", [20, 40, 60])
def test_nothing_is_found_in_a_few_real_images(count):
    images = load_demo().images
    for start in range(0, len(images) - count, count):
        assert search(images[start : start + count]).marks == ()


def test_a_patch_that_is_seen_in_windows_of_both_sizes_is_one():
    images, _ = pictures(240)
    images = stamped(images, ROWS)
    found = [
        patch
        for side in (5, 8)
        for patch in find_patches(Windows.of(images.float().mean(1, keepdim=True), side), images)
    ]
    assert len(found) >= 2
    ((strongest, margins),) = join(found)
    assert strongest.gap == max(patch.gap for patch in found)
    assert (margins > 0).nonzero().flatten().tolist() == ROWS.tolist()

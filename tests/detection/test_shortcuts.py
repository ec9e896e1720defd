"""Labels that can be read from traces: of a set made unlearnable, and of natural sets, where they cannot."""

import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.attacks import craft
from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import SuspectSet, WholeSearch, detect, search_set
from puregen_transforms.detection.shortcuts import (
    coarsen,
    patch_responses,
    read_labels,
    residual_pixels,
    whitened_patches,
)


def enlarged():
    """The demo images, each several times, shifted, mirrored and a little brighter: 1,000 that are not alike."""
    demo = load_demo()
    copies = [
        (demo.images.roll((row, -row), (2, 3)).flip(3 if row % 2 else 2).int() + 3 * row).clamp(0, 255).byte()
        for row in range(5)
    ]
    return ImageSet(torch.cat(copies), demo.labels.repeat(5), CLASSES)


@pytest.mark.parametrize("attack", ["lsp", "urp", "autoregressive", "one_pixel_shortcut"])
def test_a_set_made_unlearnable_is_flagged_as_a_whole(attack):
    images, labels = craft(attack, enlarged(), preset="cpu").apply_to_tensors(enlarged().images, enlarged().labels)
    report = detect("shortcuts", images, labels, class_names=CLASSES, device="cpu")
    assert report.flagged.all()
    readable = sum(one.facts["readable"] for one in report.classes) / len(CLASSES)
    coarse = sum(one.facts["coarse"] for one in report.classes) / len(CLASSES)
    assert readable > 0.85
    assert coarse < 0.4


def test_a_natural_set_is_left_alone():
    demo = load_demo()
    assert not detect("shortcuts", demo.images, demo.labels, device="cpu").flagged.any()
    assert not detect("shortcuts", enlarged().images, enlarged().labels, device="cpu").flagged.any()


def test_classes_that_the_pictures_themselves_tell_apart_are_left_alone():
    """Bars of one direction for each class: nearly all labels can be read, and still can from coarse images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    images = torch.randint(0, 60, (400, 3, 32, 32), generator=generator)
    for row, label in enumerate(labels.tolist()):
        start = int(torch.randint(4, 24, (1,), generator=generator))
        bar = images[row, :, start : start + 6] if label else images[row, :, :, start : start + 6]
        bar.fill_(220)
    report = detect("shortcuts", images.to(torch.uint8), labels, device="cpu")
    assert min(one.facts["readable"] for one in report.classes) > 0.8
    assert not report.flagged.any()


@pytest.mark.parametrize("side", [1, 2, 32])
def test_images_that_are_small_or_all_alike_have_no_traces(side):
    images = torch.full((40, 3, side, side), 7, dtype=torch.uint8)
    assert not detect("shortcuts", images, torch.arange(40) % 2, device="cpu").flagged.any()


@pytest.mark.slow
def test_the_verdict_says_so_and_singles_out_no_image():
    images, labels = craft("urp", enlarged(), preset="cpu").apply_to_tensors(enlarged().images, enlarged().labels)
    report = detect("shortcuts", images, labels, class_names=CLASSES, device="cpu")
    clean = detect("shortcuts", enlarged().images, labels, device="cpu")
    known = {"shortcuts": report}
    suspects = SuspectSet(images=images, labels=labels, class_names=CLASSES, known=known)
    verdict = search_set(suspects, budget="2m")
    assert verdict.level == "made unlearnable"
    assert "1,000 images" in verdict.headline
    assert WholeSearch(budget="2m").detect(suspects).flagged.all(), "as a detector it does not reassure, either"
    given = SuspectSet(images=enlarged().images[:200], labels=labels[:200], class_names=CLASSES)
    assert search_set(given, budget="2m").level != "made unlearnable"
    assert not clean.flagged.any()


def test_residuals_and_coarse_images():
    images = torch.full((2, 3, 8, 8), 90, dtype=torch.uint8)
    assert residual_pixels(images).abs().max() == pytest.approx(0, abs=1e-6)
    images[0, :, ::2] = 200
    assert residual_pixels(images)[0].abs().mean() > 0.1
    assert coarsen(images).shape == images.shape
    assert residual_pixels(coarsen(images)).abs().mean() < residual_pixels(images).abs().mean()


def test_patches_are_whitened_and_answer_to_textures_wherever_they_are():
    generator = torch.Generator().manual_seed(0)
    noise = F.avg_pool2d(torch.rand(400, 3, 36, 36, generator=generator) - 0.5, 3, 1)  # neighbors alike
    filters = whitened_patches(noise)
    answers = F.conv2d(noise, filters).transpose(0, 1).flatten(1)
    assert answers.std(1).max() / answers.std(1).min() < 1.5, "no patch is weaker for being rare"
    images = torch.randint(100, 156, (200, 3, 32, 32), generator=generator).byte()
    stripes = 40 * (torch.arange(32) % 2)
    for row in range(0, 200, 2):
        top, left = torch.randint(0, 20, (2,), generator=generator).tolist()
        images[row, :, top : top + 12, left : left + 12] += stripes[:12].byte()
    right, _ = read_labels(patch_responses(images), torch.arange(200) % 2)
    pixels, _ = read_labels(residual_pixels(images), torch.arange(200) % 2)
    assert right.float().mean() > 0.9
    assert pixels.float().mean() < 0.7


def test_labels_are_read_by_the_other_half():
    own = torch.arange(200) % 2
    telling = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    right, _ = read_labels(telling, own)
    assert 0.3 < right.float().mean() < 0.7
    telling[:, 2] += 8 * own
    right, preferred = read_labels(telling, own)
    assert right.float().mean() > 0.95
    assert torch.equal(right, preferred > 0)


def test_what_it_needs_is_said():
    demo = load_demo()
    with pytest.raises(ValueError, match="two classes of 10 images or more, but got 1"):
        detect("shortcuts", demo.images, torch.zeros(200, dtype=torch.int64))
    with pytest.raises(ValueError, match="`labels`"):
        detect("shortcuts", demo.images)

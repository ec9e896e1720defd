"""Classes that have more images of outlying energy than chance gives."""

import torch

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.detection import SuspectSet, detect, search_set
from puregen_transforms.detection.energy_levels import (
    SURE,
    high_energies,
    judge_classes,
    judge_group,
    score_energies,
)
from puregen_transforms.detection.findings import SIGNIFICANCE

LABELS = torch.arange(2000) % 4


def judged(energies, labels=LABELS):
    members = {} if labels is None else {label: (labels == label).nonzero().flatten() for label in range(4)}
    scores = score_energies(energies, members)
    whole = judge_group("whole set", None, energies, scores, len(members) + 1)
    return high_energies(scores, judge_classes(energies, scores, members, ()), whole, labels)


def natural():
    """Energies of a normal distribution around the mean of their class."""
    return torch.randn(2000, generator=torch.Generator().manual_seed(0)) + LABELS


def test_clean_classes_are_left_alone():
    assert not judged(natural()).any()
    assert not judged(natural(), None).any()


def test_a_class_with_too_many_is_flagged_and_the_others_are_not():
    energies = natural()
    poisoned = (LABELS == 2).nonzero().flatten()[:40]
    energies[poisoned] += 6
    found = judged(energies)
    assert found[poisoned].float().mean() > 0.95
    assert not found[LABELS != 2].any()
    assert found.sum() <= len(poisoned) + 3


def test_a_few_outliers_that_one_clean_set_in_a_hundred_has_are_no_doubt():
    energies = natural()
    energies[(LABELS == 2).nonzero().flatten()[:4]] += 12
    members = {label: (label == LABELS).nonzero().flatten() for label in range(4)}
    (worst, *_) = sorted(
        judge_classes(energies, score_energies(energies, members), members, ()), key=lambda one: one.outlier_p
    )
    assert (worst.label, worst.outliers) == (2, 4)
    assert SURE < worst.outlier_p < SIGNIFICANCE
    assert not judged(energies).any()


def test_outliers_of_all_classes_are_flagged_where_there_are_no_labels():
    energies = natural()
    energies[:60] += 9
    assert judged(energies, None)[:60].all()


def test_noise_of_each_image_its_own_in_one_class_is_a_doubt_and_no_proof():
    demo = load_demo()
    images = demo.images.clone()
    rows = (demo.labels == 5).nonzero().flatten()[:8]
    signs = torch.randint(0, 2, images[rows].shape, generator=torch.Generator().manual_seed(0)) * 32 - 16
    images[rows] = (images[rows].int() + signs).clamp(0, 255).byte()
    report = detect("unusual_energies", images, demo.labels, class_names=CLASSES, device="cpu")
    assert report.flagged.nonzero().flatten().tolist() == rows.tolist()
    suspects = SuspectSet(images=images, labels=demo.labels, class_names=CLASSES)
    verdict = search_set(suspects, budget="2m")
    assert verdict.level == "doubtful"
    assert verdict.doubtful.nonzero().flatten().tolist() == rows.tolist()
    assert not detect("unusual_energies", demo.images, demo.labels, device="cpu").flagged.any()


def test_searches_that_share_a_state_measure_energies_once(tmp_path, monkeypatch, tiny_checkpoint):
    demo = load_demo()
    given = {"device": "cpu", "state": tmp_path, "settings": {"checkpoint": str(tiny_checkpoint)}}
    scores = detect("energy_outliers", demo.images, demo.labels, **given).scores
    monkeypatch.setattr("puregen_transforms.detection.measure.ImageMeter.energies", lambda *given: 1 / 0)
    assert detect("unusual_energies", demo.images, demo.labels, **given).scores.isfinite().all()
    assert scores.equal(detect("energy_outliers", demo.images, demo.labels, **given).scores)

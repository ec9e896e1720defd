"""The labels of a mark's carriers: what they say, and when they say nothing."""

import pytest
import torch

from puregen_transforms.detection.label_evidence import describe_pictures, weigh_labels
from tests.detection.pictures import pictures

CLASSES = 5


def described(count=1000, *, spread=1.0, seed=0):
    """Features of which each class has its own mean, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    means = torch.randn(CLASSES, 20, generator=generator)
    return means[labels] + spread * torch.randn(count, 20, generator=generator), labels


CARRIERS = torch.arange(0, 1000, 21)


def test_a_mark_on_images_of_all_classes_is_harmless():
    features, labels = described()
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.verdict, evidence.label) == ("harmless", None)
    assert evidence.agreement == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("covers", [0, 1])
def test_a_mark_with_one_label_is_poison_with_or_without_covers(covers):
    features, labels = described()
    labels[CARRIERS[:: 1 + covers]] = 3
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.verdict, evidence.label) == ("poison", 3)
    assert evidence.excess > 0.4


def test_covers_with_labels_that_fit_are_told_from_poison():
    features, labels = described()
    labels[CARRIERS[::2]] = 3
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.label, evidence.spares_others) == (3, True)


def test_carriers_of_a_second_class_are_not_spared_though_their_labels_are_true():
    """Two targets of a clean-label attack, and labels of a second target that do not fit."""
    features, labels = described()
    two = torch.cat([(labels == 2).nonzero().flatten()[:50], (labels == 4).nonzero().flatten()[:20]])
    evidence = weigh_labels(features, labels, two)
    assert (evidence.label, evidence.spares_others) == (2, False)
    labels[CARRIERS[::2]], labels[CARRIERS[1::4]] = 3, 1
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.label, evidence.spares_others) == (3, False)


def test_other_carriers_whose_labels_do_not_fit_are_not_spared():
    """One class has most, and the rest are spread evenly, but each has the label of the next class."""
    features, labels = described()
    labels[CARRIERS] = (labels[CARRIERS] + 1) % CLASSES
    labels[CARRIERS[::2]] = 3
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.label, evidence.spares_others) == (3, False)


def test_a_mark_on_images_of_one_class_alone_is_poison_though_the_labels_are_true():
    features, labels = described()
    evidence = weigh_labels(features, labels, (labels == 2).nonzero().flatten()[:50])
    assert (evidence.verdict, evidence.label) == ("poison", 2)


@pytest.mark.parametrize("shift", ["next", "any other"])
def test_a_mark_whose_labels_do_not_fit_the_pictures_is_poison(shift):
    features, labels = described()
    other = torch.randint(1, CLASSES, (len(CARRIERS),), generator=torch.Generator().manual_seed(0))
    labels[CARRIERS] = (labels[CARRIERS] + (1 if shift == "next" else other)) % CLASSES
    evidence = weigh_labels(features, labels, CARRIERS)
    assert (evidence.verdict, evidence.label) == ("poison", None)
    assert evidence.agreement < 0.5


def test_what_the_mark_itself_changes_does_not_count_against_the_labels():
    features, labels = described()
    features[CARRIERS] += 5 * torch.randn(20, generator=torch.Generator().manual_seed(3))
    assert weigh_labels(features, labels, CARRIERS).verdict == "harmless"


def test_a_watermark_that_is_commoner_in_some_classes_is_harmless():
    features, labels = described()
    generator = torch.Generator().manual_seed(0)
    carries = torch.rand(1000, generator=generator) < torch.tensor([0.2, 0.25, 0.3, 0.2, 0.25])[labels]
    assert weigh_labels(features, labels, carries.nonzero().flatten()).verdict == "harmless"


def test_few_carriers_and_labels_that_pictures_do_not_tell_leave_it_undecided():
    features, labels = described(spread=6)
    assert weigh_labels(features, labels, CARRIERS[:4]).verdict == "undecided"
    noise = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    evidence = weigh_labels(noise, labels, CARRIERS)
    assert (evidence.verdict, evidence.agreement) == ("undecided", None)


def test_without_labels_or_with_one_class_it_is_undecided():
    features, labels = described()
    assert weigh_labels(features, torch.zeros_like(labels), CARRIERS).verdict == "undecided"
    assert weigh_labels(features, torch.full_like(labels, -1), CARRIERS).verdict == "undecided"


def test_a_mark_on_all_images_leaves_it_undecided():
    features, labels = described()
    assert weigh_labels(features, labels, torch.arange(1000)).verdict == "undecided"


def test_pictures_are_described_by_their_colors_and_edges():
    images, _ = pictures(40)
    features = describe_pictures(images)
    assert features.shape == (40, 8 * 8 * 3 + 4 * 4 * 8)
    assert features.isfinite().all()
    brighter = describe_pictures((images // 2 + 64).to(torch.uint8))
    assert torch.cosine_similarity(features[:, 192:], brighter[:, 192:]).min() > 0.9

import math

import pytest
import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import detect
from puregen_transforms.detection.agpd import Agpd, _distance, _steadiest, class_gap, join, most_unlike, ratios

from .constructed import DIMENSIONS, as_images, blobs, pixel_network, reserved_set, shift

CLASSES = 6
NAMES = ("a", "b", "c", "d", "e", "f")
TARGET = 2


def network():
    """Pixels, BatchNorm, ReLU and a linear layer: a gradient is the label's weights where the pixels are positive.

    Weights are what the class shows more than others, and some noise, so that the network is right.
    """
    last = nn.Linear(DIMENSIONS, CLASSES, bias=False)
    features, labels = blobs([50] * CLASSES, seed=6)
    shown = torch.stack([features[labels == label].clamp(min=0).mean(0) for label in range(CLASSES)])
    noise = 0.1 * torch.randn(CLASSES, DIMENSIONS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        last.weight.copy_(shown - shown.mean(0) + noise)
    layers = [nn.Flatten(), nn.Unflatten(1, (DIMENSIONS, 1, 1)), nn.BatchNorm2d(DIMENSIONS), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, last).eval()


def given(**changes):
    return {
        "class_names": NAMES,
        "reserved": reserved_set(classes=CLASSES),
        "network": network(),
        "device": "cpu",
    } | changes


def poisoned(*targets):
    """Images, labels, and the truth; 12 images of each target class activate other channels together."""
    features, labels = blobs([100] * CLASSES)
    truth = torch.zeros(len(labels), dtype=torch.bool)
    for target in targets:
        truth[(labels == target).nonzero().flatten()[:12]] = True
    features[truth] += shift(0.6)
    return as_images(features), labels, truth


def directions(count, angle, spread=0.05, seed=0):
    """Gradients around a direction in a plane."""
    noise = spread * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double()
    return torch.tensor([math.cos(angle), math.sin(angle)]).double() + noise


class TestAgpd:
    def test_the_class_with_two_kinds_of_gradients_is_the_target(self):
        images, labels, truth = poisoned(TARGET)
        report = detect("agpd", images, labels, **given())
        assert report.flagged[truth].all()
        assert not report.flagged[labels != TARGET].any()
        assert report.flagged[~truth & (labels == TARGET)].float().mean() <= 0.25
        assert report.classes[0].name == "c"
        assert report.classes[0].facts["deviation"] > math.exp(2)
        assert report.scores[truth].min() > report.scores[~truth].median()

    def test_where_every_class_is_a_target_none_stands_out_and_the_gap_tells(self):
        images, labels, truth = poisoned(*range(CLASSES))
        report = detect("agpd", images, labels, **given())
        assert sum(one.flagged > 0 for one in report.classes) >= 4
        assert report.flagged[truth].float().mean() > 2 * report.flagged[~truth].float().mean()
        assert not detect("agpd", images, labels, settings={"several_targets": None}, **given()).flagged.any()

    def test_one_clean_image_of_each_class_is_enough(self):
        images, labels, truth = poisoned(TARGET)
        one = reserved_set(per_class=1, classes=CLASSES)
        report = detect("agpd", images, labels, **given(reserved=one))
        assert report.flagged[truth].all()

    def test_a_clean_set_has_no_class_far_above_the_others(self):
        images, labels, _ = poisoned()
        report = detect("agpd", images, labels, settings={"several_targets": None}, **given())
        assert report.flagged.float().mean() <= 0.02


class TestFormulas:
    def test_the_gap_is_small_of_one_kind_and_large_of_two(self):
        clean = torch.tensor([1.0, 0.0]).double()
        one, two = directions(100, 0.0), torch.cat([directions(80, 0.0), directions(20, 2.0, seed=1)])
        assert class_gap(one, clean) < 0.1
        values = [row / row.norm() for row in two]
        first = min(range(100), key=lambda row: float(values[row][0]))
        assert most_unlike(two, clean).tolist() == [first]
        squares = [float(row[0] - row @ values[first]) ** 2 for row in values if row is not values[first]]
        assert class_gap(two, clean) == pytest.approx(math.sqrt(sum(squares) / 100))
        assert class_gap(one[:1].expand(9, 2), clean) == 0

    def test_ratios_go_from_poisoned_to_clean(self):
        found = ratios(
            torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]).double(),
            torch.tensor([0.0, 2.0]).double(),
            torch.tensor([3.0, 0.0]).double(),
        )
        assert found.tolist() == pytest.approx([0, 0.5, 1, 0.5])

    @pytest.mark.parametrize("share", [12, 20, 40])
    def test_those_that_side_with_the_most_unlike_join_it(self, share):
        gradients = torch.cat([directions(100 - share, 0.0), directions(share, 1.5, seed=1)])
        joined = set(join(gradients, torch.tensor([1.0, 0.0]).double(), step=0.05).tolist())
        assert set(range(100 - share, 100)) <= joined
        assert len(joined) <= share + 3

    def test_distances_of_distributions(self):
        values = torch.linspace(0, 1, 50).double()
        assert _distance(values, values) == 0
        assert _distance(values[:10], values[40:]) == pytest.approx(math.sqrt(math.log(2)))
        assert _distance(values, values[:0]) == 1

    def test_the_steadiest_rounds_are_small_and_even(self):
        assert _steadiest([0.9, 0.8] + [0.1] * 10 + [0.5] * 5) == 2
        assert _steadiest([0.3]) == 0
        assert _steadiest([]) == 0


class TestBadInput:
    def test_a_network_without_batch_norm(self):
        images, labels, _ = poisoned()
        with pytest.raises(ValueError, match="network with BatchNorm2d layers"):
            detect("agpd", images, labels, **given(network=pixel_network(CLASSES)))

    def test_two_classes_are_too_few_to_compare(self):
        images, labels, _ = poisoned()
        rows = labels < 2
        with pytest.raises(ValueError, match="at least 3 classes, which AGPD compares"):
            detect("agpd", images[rows], labels[rows], **given())

    def test_a_class_without_reserved_images(self):
        images, labels, _ = poisoned()
        clean = reserved_set(classes=CLASSES)
        with pytest.raises(ValueError, match="got 0 of the class 'c'"):
            detect("agpd", images, labels, **given(reserved=clean.subset(clean.labels != TARGET)))

    def test_reserved_images_of_other_classes(self):
        images, labels, _ = poisoned()
        clean = reserved_set(classes=CLASSES)
        other = ImageSet(clean.images, clean.labels, NAMES[::-1])
        with pytest.raises(ValueError, match="in this order"):
            detect("agpd", images, labels, **given(reserved=other))

    @pytest.mark.parametrize("count", [1, 3])
    def test_tiny_classes(self, count):
        features, labels = blobs([40] * (CLASSES - 1) + [count])
        report = detect("agpd", as_images(features), labels, **given())
        assert report.scores.isfinite().all()
        assert count > 1 or report.scores[-1] == 0

    def test_all_images_alike(self):
        images = as_images(blobs([1])[0]).expand(60, -1, -1, -1)
        report = detect("agpd", images, torch.arange(60) % CLASSES, **given())
        assert not report.flagged.any()

    def test_settings_out_of_range(self):
        with pytest.raises(ValueError, match="step between 0 and 1"):
            Agpd(step=0)

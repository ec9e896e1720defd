import math

import numpy as np
import pytest
import torch

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import SuspectSet, detect
from puregen_transforms.detection.latent import ActivationClustering, SpectralSignatures, spectral_scores
from puregen_transforms.detection.latent_space import anomaly_indices, principal_axes, silhouette, two_means
from puregen_transforms.detection.scan import SCAn, estimate_covariances, inverse, split_class

from .constructed import as_images, blobs, pixel_network, reserved_set, shift

NAMES = ("a", "b", "c", "d")
TARGET = 2


def given(**changes):
    return {
        "class_names": NAMES,
        "reserved": reserved_set(),
        "network": pixel_network(),
        "device": "cpu",
    } | changes


@pytest.fixture(scope="module")
def poisoned():
    """Four classes of 100, and 12 images more of class 2 whose features are displaced together."""
    features, labels = blobs([100, 100, 112, 100])
    rows = (labels == TARGET).nonzero().flatten()[:12]
    features[rows] += shift(0.3)
    truth = torch.zeros(len(labels), dtype=torch.bool)
    truth[rows] = True
    return as_images(features), labels, truth


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class TestFormulas:
    @pytest.mark.parametrize("shape", [(60, 20), (20, 60), (1, 5)])
    def test_axes_are_those_of_a_singular_value_decomposition(self, shape):
        points = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        points[:, 2] = points[:, 1]
        points -= points.mean(0)
        values, axes = principal_axes(points, 20)
        _, expected, directions = torch.linalg.svd(points, full_matrices=False)
        known = values > 0
        assert values.shape == expected[:20].shape
        assert int(known.sum()) == int((expected[:20] > 1e-6).sum()) == {60: 19, 20: 19, 1: 0}[shape[0]]
        torch.testing.assert_close(values[known], expected[:20][known])
        alike = (axes * directions[:20].T).sum(0).abs()
        torch.testing.assert_close(alike, known.double())

    def test_spectral_scores_are_those_of_algorithm_1(self):
        features = torch.randn(40, 12, generator=generator())
        values = features.double().numpy()
        values = values - values.mean(0)
        top = np.linalg.svd(values, full_matrices=False)[2][0]
        assert np.allclose(spectral_scores(features).numpy(), (values @ top) ** 2)

    def test_two_means_finds_two_groups_and_the_smaller_is_second(self):
        points = torch.randn(60, 3, generator=generator()).double()
        points[:9] += 12
        halves = two_means(points, generator=generator())
        assert halves.second.nonzero().flatten().tolist() == list(range(9))
        assert torch.allclose(halves.centers[1], points[:9].mean(0))

    def test_two_means_of_equal_points_are_none(self):
        assert two_means(torch.ones(5, 2), generator=generator()) is None
        assert two_means(torch.ones(1, 2), generator=generator()) is None

    def test_the_silhouette_is_scikit_learns(self):
        from sklearn.metrics import silhouette_score

        points = torch.randn(70, 4, generator=generator()).double()
        for second in (points[:, 0] > 0.5, torch.arange(70) == 3):
            expected = silhouette_score(points.numpy(), second.numpy())
            assert silhouette(points, second) == pytest.approx(expected, abs=1e-9)

    def test_anomaly_indices_are_one_sided_robust_deviations(self):
        found = anomaly_indices([1.0, 2.0, 3.0, 4.0, 53.0])
        assert found[:2] == [0, 0]
        assert found[4] == pytest.approx(50 / 1.4826)
        assert anomaly_indices([1.0, 1.0, 1.0, 9.0]) == [0, 0, 0, 0], "no scale, no outlier"


class TestSpectralSignatures:
    def test_poison_stands_out_along_the_top_direction_of_its_class(self, poisoned):
        images, labels, truth = poisoned
        report = detect("spectral_signatures", images, labels, settings={"expected": 12 / 412}, **given())
        assert (report.flagged & truth).sum() == 12
        assert set(report.scores.argsort(descending=True)[:12].tolist()) == set(truth.nonzero().flatten().tolist())

    def test_it_flags_the_same_number_in_every_class_and_at_most_half(self, poisoned):
        images, labels, _ = poisoned
        report = detect("spectral_signatures", images, labels, settings={"expected": 0.02}, **given())
        assert [one.flagged for one in report.classes] == [int(1.5 * 0.02 * 412)] * 4
        report = detect("spectral_signatures", images, labels, settings={"expected": 0.5}, **given())
        assert sorted(one.flagged for one in report.classes) == [50, 50, 50, 56]

    def test_settings_out_of_range(self):
        with pytest.raises(ValueError, match="share between 0 and 1"):
            SpectralSignatures(expected=0)


class TestActivationClustering:
    def test_the_small_far_cluster_is_flagged(self, poisoned):
        images, labels, truth = poisoned
        report = detect("activation_clustering", images, labels, **given())
        assert torch.equal(report.flagged, truth)
        assert report.classes[0].facts["silhouette"] > 0.5
        assert report.scores[truth].min() > report.scores[~truth].max()

    def test_two_large_clusters_are_a_class_of_two_kinds(self):
        features, labels = blobs([100, 100, 100, 100])
        features[200:245] += shift(0.3)
        report = detect("activation_clustering", as_images(features), labels, **given())
        assert not report.flagged.any()
        assert {one.label: one.facts["share"] for one in report.classes}[TARGET] == pytest.approx(0.45)

    def test_settings_out_of_range(self):
        with pytest.raises(ValueError, match="at least one component"):
            ActivationClustering(components=0)


class TestSCAn:
    def test_the_class_that_two_means_explain_better_is_searched(self, poisoned):
        images, labels, truth = poisoned
        report = detect("scan", images, labels, **given())
        assert torch.equal(report.flagged, truth)
        assert report.classes[0].name == "c"
        assert report.classes[0].facts["statistic"] > math.exp(2)
        assert report.scores[truth].min() > report.scores[~truth].max()

    def test_clean_images_say_which_group_is_poison_even_if_it_is_the_larger_one(self):
        features, labels = blobs([100, 100, 100, 100])
        truth = (labels == TARGET) & (torch.arange(400) % 5 > 1)
        features[truth] += shift(0.3)
        report = detect("scan", as_images(features), labels, **given())
        assert torch.equal(report.flagged, truth)

    def test_all_to_all_poison_passes_as_published(self):
        features, labels = blobs([100, 100, 100, 100])
        features[torch.arange(400) % 10 == 0] += shift(0.3)
        assert not detect("scan", as_images(features), labels, **given()).flagged.any()

    def test_covariances_are_recovered(self):
        between = torch.diag(torch.tensor([4.0, 1.0, 0.25])).double()
        within = torch.tensor([[1.0, 0.5, 0], [0.5, 1, 0], [0, 0, 0.1]]).double()
        draw = generator()
        means = torch.randn(300, 3, generator=draw).double() @ torch.linalg.cholesky(between).T
        noise = torch.randn(300, 40, 3, generator=draw).double() @ torch.linalg.cholesky(within).T
        classes = list(torch.arange(12_000).split(40))
        found = estimate_covariances((means[:, None] + noise).view(-1, 3), classes)
        assert torch.allclose(found.between, between, atol=0.5)
        assert torch.allclose(found.within, within, atol=0.05)
        one = torch.eye(3).double()
        expected = between @ torch.linalg.inv(between + within / 40)
        assert torch.allclose(40 * one @ found.shrinkage(40), expected.T, atol=0.01), "as of normal means"

    def test_the_gain_is_that_of_two_means_over_one(self):
        features, _ = blobs([100, 100])
        features[100:110] += shift(0.3)
        values = features.double()
        clean = reserved_set(classes=2)
        reference = clean.images.flatten(1).double() / 127.5 - 1
        covariances = estimate_covariances(reference, [(clean.labels == label).nonzero().flatten() for label in (0, 1)])
        scale = inverse(covariances.within)
        split = split_class(values[100:] - reference.mean(0), scale, covariances, generator=generator())
        second = split.posterior > 0.5
        assert min(int(second.sum()), 100 - int(second.sum())) == 10
        centered = values[100:] - reference.mean(0)
        mean = centered.sum(0) @ covariances.shrinkage(100)
        gain = sum(
            float((row - mean) @ scale @ (row - mean) - (row - own) @ scale @ (row - own))
            for row, own in zip(centered, split.means[second.long()], strict=True)
        )
        assert split.gain == pytest.approx(gain / 100)

    def test_two_classes_are_too_few_to_compare(self):
        features, labels = blobs([30, 30])
        with pytest.raises(ValueError, match="at least 3 classes, which SCAn compares"):
            detect("scan", as_images(features), labels, **given())


@pytest.mark.parametrize("name", ["spectral_signatures", "activation_clustering", "scan"])
class TestBadInput:
    def test_classes_of_three_images(self, name):
        features, labels = blobs([3, 3, 3, 3])
        report = detect(name, as_images(features), labels, **given())
        assert report.scores.isfinite().all()
        assert report.flagged.sum() <= 4

    def test_classes_of_one_image_are_not_searched(self, name):
        features, labels = blobs([40, 40, 40, 1])
        report = detect(name, as_images(features), labels, **given())
        assert not report.flagged[-1]
        assert report.scores[-1] == 0

    def test_images_that_are_all_alike_are_not_flagged(self, name):
        images = as_images(blobs([1])[0]).expand(40, -1, -1, -1)
        report = detect(name, images, torch.arange(40) % 4, **given())
        assert not report.flagged.any()
        assert (report.scores == 0).all()

    def test_rows_without_a_label_are_left_alone(self, name, poisoned):
        images, labels, truth = poisoned
        labels = labels.where(~truth, -1)
        report = detect(name, images, labels, **given())
        assert not report.flagged[truth].any()

    def test_reserved_images_of_other_classes(self, name, poisoned):
        images, labels, _ = poisoned
        other = ImageSet(reserved_set().images, reserved_set().labels, ("e", "f", "g", "h"))
        if name == "scan":
            with pytest.raises(ValueError, match="classes a, b, c, d of the suspects, .* but got e, f, g, h"):
                detect(name, images, labels, **given(reserved=other))
        else:
            assert detect(name, images, labels, **given(reserved=other)).scores.isfinite().all(), "it is not looked at"


def test_one_class_only_is_searched_where_classes_are_not_compared(poisoned):
    images, labels, truth = poisoned
    rows = labels == TARGET
    report = detect("activation_clustering", images[rows], labels[rows], **given())
    assert torch.equal(report.flagged, truth[rows])


def test_detectors_without_a_set_up_say_what_they_need():
    assert SCAn.needs == {"labels", "reserved", "network"}
    with pytest.raises(ValueError, match="`labels`"):
        SpectralSignatures().detect(SuspectSet(images=torch.zeros(4, 3, 4, 4).byte(), network=pixel_network()))

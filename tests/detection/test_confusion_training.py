"""Confusion Training: its parts on cases whose answer is known, and the whole on gratings with an obvious patch."""

import math
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import ConfusionTraining, SuspectSet, detect
from puregen_transforms.detection import confusion_rounds as rounds
from puregen_transforms.detection.confusion_training import margins_of
from puregen_transforms.detection.likelihood_ratio import (
    classes_at_risk,
    likelihood_ratio,
    log_density,
    principal_components,
)

NAMES = ("across", "down", "rising", "falling")
POISONED = 20

SHORT = {
    "network": "tiny",
    "base_epochs": 2,
    "pretrain_epochs": (2, 1),
    "iterations": (3, 3),
    "confusion_weights": (20, 15),
    "learning_rates": (1e-2, 1e-2),
    "inspect_every": (2, 2),
    "shares": (0.5,),
    "floors": (50,),
}
"""Two rounds in a second, which find nothing."""

LONGER = {**SHORT, "iterations": (101, 3), "threshold": 1e-9, "highest_threshold": 1e-9}
"""With a stage that is saved on its way, and thresholds that every class passes, so that there are flags."""


def gratings(count, seed):
    """Draw noisy stripes of four directions, one for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    across, down = torch.tensor([[1, 0], [0, 1], [0.7, 0.7], [0.7, -0.7]])[labels][..., None, None].unbind(1)
    phase = 6.28 * torch.rand(count, 1, 1, generator=generator)
    frequency = 0.5 + 0.3 * torch.rand(count, 1, 1, generator=generator)
    wave = torch.sin(frequency * (across * x + down * y) + phase)[:, None]
    images = 127 + 60 * wave * (0.5 + torch.rand(count, 3, 1, 1, generator=generator))
    images += 40 * torch.randn(count, 3, 32, 32, generator=generator)
    return images.clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def clean():
    return gratings(240, 0)


@pytest.fixture(scope="module")
def reserved():
    return ImageSet(*gratings(120, 99), NAMES)


@pytest.fixture(scope="module")
def poisoned(clean):
    """Images, labels and poisoned rows: a checkerboard in the corner of images of other classes, labelled 0."""
    images, labels = clean[0].clone(), clean[1].clone()
    rows = (labels != 0).nonzero().flatten()[:POISONED]
    images[rows, :, 24:30, 24:30] = ((torch.arange(6)[:, None] + torch.arange(6)) % 2 * 255).to(torch.uint8)
    labels[rows] = 0
    return images, labels, rows


def search(images, labels, reserved, *, preset=None, settings=SHORT, **options):
    given = {"preset": preset, "settings": settings, "reserved": reserved, "device": "cpu"}
    return detect("confusion_training", images, labels, **given, **options)


@pytest.fixture(scope="module")
def whole(poisoned, reserved):
    return search(*poisoned[:2], reserved, settings=LONGER)


class TestWhole:
    def test_images_with_a_patch_are_flagged_and_few_others(self, poisoned, reserved):
        images, labels, rows = poisoned
        report = search(images, labels, reserved, preset="smoke", settings={}, class_names=NAMES)
        hit = torch.zeros(len(images), dtype=torch.bool)
        hit[rows] = True
        assert report.flagged[hit].sum() >= 0.9 * POISONED
        assert report.flagged[~hit].float().mean() <= 0.05
        assert report.classes[0].name == "across"
        assert report.classes[0].facts["likelihood_ratio"] > 10
        assert report.classes[0].facts["isolated"] >= 0.9 * POISONED
        assert torch.equal(report.scores > 1, report.flagged)
        ranked = report.scores.argsort(descending=True)
        assert hit[ranked[:POISONED]].float().mean() >= 0.75

    @pytest.mark.slow
    def test_without_poison_no_more_is_flagged_than_one_class_can_explain(self, clean, reserved):
        assert search(*clean, reserved, preset="smoke", settings={}).flagged.float().mean() <= 0.25


class TestResuming:
    @pytest.mark.parametrize("killed_at", range(1, 9))
    def test_a_killed_search_goes_on_to_the_same_flags(self, poisoned, reserved, whole, tmp_path, killed_at):
        told, again = [], []

        def until_killed(what, done, total):
            told.append((what, done))
            if len(told) == killed_at:
                raise KeyboardInterrupt

        given = {"settings": LONGER, "state": tmp_path}
        with pytest.raises(KeyboardInterrupt):
            search(*poisoned[:2], reserved, **given, progress=until_killed)
        report = search(*poisoned[:2], reserved, **given, progress=lambda what, done, total: again.append((what, done)))
        assert torch.equal(report.scores, whole.scores)
        assert torch.equal(report.flagged, whole.flagged)
        assert report.flagged.any()
        assert not {one for one in told if one[0].startswith("confusing")} & set(again)

    def test_the_state_of_another_search_is_not_taken(self, poisoned, reserved, tmp_path):
        images, labels, _ = poisoned
        search(images, labels, reserved, state=tmp_path)
        for options in ({"seed": 1}, {"settings": {**SHORT, "batch": 16}}):
            kept = search(images, labels, reserved, state=tmp_path, **options)
            assert torch.equal(kept.scores, search(images, labels, reserved, **options).scores)

    def test_a_finished_search_is_read(self, poisoned, reserved, tmp_path):
        images, labels, _ = poisoned
        first = search(images, labels, reserved, state=tmp_path)
        told = []
        second = search(images, labels, reserved, state=tmp_path, progress=lambda *words: told.append(words))
        assert torch.equal(first.scores, second.scores)
        assert not told


class TestBadInput:
    @staticmethod
    def joined(reserved, clean, count):
        images, labels = (part[:count] for part in clean)
        return ImageSet(torch.cat([reserved.images, images]), torch.cat([reserved.labels, labels]), NAMES)

    def test_classes_of_few_images_are_not_flagged_and_said_to_be_untested(self, poisoned, reserved):
        images, labels, _ = poisoned
        rows = torch.cat([(labels != 3).nonzero().flatten(), (labels == 3).nonzero().flatten()[:3]])
        report = search(images[rows], labels[rows], reserved, class_names=NAMES)
        facts = {one.name: one.facts for one in report.classes}
        assert facts["falling"]["tested"] == 0
        assert facts["falling"]["likelihood_ratio"] is None
        assert facts["across"]["tested"] == 1
        assert not report.flagged[labels[rows] == 3].any()

    def test_images_without_a_label_are_not_flagged(self, poisoned, reserved):
        images, labels, _ = poisoned
        labels = labels.clone()
        labels[:5] = -1
        report = search(images, labels, reserved, settings={**SHORT, "threshold": 1e-9, "highest_threshold": 1e-9})
        assert not report.flagged[:5].any()
        assert (report.scores[:5] == -1).all()
        assert report.flagged.any()

    def test_one_class_alone_is_refused(self, clean, reserved):
        with pytest.raises(ValueError, match="two or more classes, .* but got 1"):
            search(clean[0], torch.zeros(240, dtype=torch.int64), reserved)

    def test_labels_and_reserved_images_are_asked_for(self, clean, reserved):
        with pytest.raises(ValueError, match="`labels`"):
            search(clean[0], None, reserved)
        with pytest.raises(ValueError, match="`reserved`"):
            search(*clean, None)

    def test_a_reserved_set_of_other_classes_is_refused(self, clean, reserved):
        with pytest.raises(ValueError, match="with the classes a, b, c, d of the suspects"):
            search(*clean, reserved, class_names="abcd")

    def test_a_reserved_set_of_another_size_is_refused(self, clean, reserved):
        smaller = replace(reserved, images=reserved.images[..., ::2, ::2])
        with pytest.raises(ValueError, match="reserved images of 32x32 pixels, .* but got 16x16"):
            search(*clean, smaller)

    def test_a_reserved_set_out_of_the_suspects_is_refused(self, clean, reserved):
        mixed = ImageSet(
            torch.cat([reserved.images, clean[0][:10]]), torch.cat([reserved.labels, clean[1][:10]]), NAMES
        )
        with pytest.raises(ValueError, match="but 10 of 130 are"):
            search(*clean, mixed)

    def test_a_single_duplicate_is_left_out(self, clean, reserved):
        mixed = self.joined(reserved, clean, 1)
        assert torch.equal(search(*clean, mixed).scores, search(*clean, reserved).scores)

    def test_an_empty_reserved_set_is_refused(self, clean, reserved):
        with pytest.raises(ValueError, match="at least two reserved images"):
            search(*clean, reserved.subset(torch.zeros(120, dtype=torch.bool)))

    def test_images_of_several_sizes_are_refused(self, clean, reserved):
        images = [*clean[0], clean[0][0, :, :16]]
        with pytest.raises(ValueError, match="images of one size, .* but got 32x16 pixels in row 240 after 32x32"):
            search(images, [*clean[1].tolist(), 0], reserved)

    def test_a_missing_image_is_refused(self, clean, reserved):
        with pytest.raises(ValueError, match="row 1 has none"):
            search([clean[0][0], None], [0, 1], reserved)

    def test_pictures_are_searched_like_a_tensor(self, clean, reserved):
        pictures = [PIL.Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in clean[0]]
        assert torch.equal(search(pictures, clean[1], reserved).scores, search(*clean, reserved).scores)

    def test_labels_may_be_words(self, clean, reserved):
        words = [NAMES[label] for label in clean[1].tolist()]
        named = search(clean[0], words, reserved, class_names=NAMES)
        assert torch.equal(named.scores, search(*clean, reserved, class_names=NAMES).scores)

    def test_gray_images_get_three_channels(self, clean):
        gray = SuspectSet(images=clean[0][:4, :1]).tensor()
        assert torch.equal(gray, clean[0][:4, :1].expand(-1, 3, -1, -1))

    def test_a_thousand_classes_are_no_more_than_untested(self, clean, reserved):
        labels = clean[1] + 4 * (torch.arange(240) // 4)
        names = tuple(map(str, range(1000)))
        report = search(clean[0], labels, replace(reserved, class_names=names), class_names=names)
        assert not report.flagged.any()
        assert {one.facts["tested"] for one in report.classes} == {0}

    def test_images_all_alike_are_not_flagged(self, reserved):
        images, labels = torch.full((80, 3, 32, 32), 100, dtype=torch.uint8), torch.arange(80) % 4
        assert not search(images, labels, reserved).flagged.any()

    def test_a_given_network_must_know_the_classes(self, clean, reserved):
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
        with pytest.raises(ValueError, match="network with 4 scores, .* but got 3"):
            search(*clean, reserved, network=network)

    def test_a_given_network_saves_the_base_model(self, clean, reserved):
        told = []
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
        search(*clean, reserved, network=network, progress=lambda what, *_: told.append(what))
        assert "training the base model" not in told
        assert "confusing, round 2" in told

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"iterations": (5, 5)}, "Expected 2 numbers above 0 as `pretrain_epochs`, as there are 2 rounds"),
            ({"learning_rates": (0,) * 6}, "6 numbers above 0 as `learning_rates`"),
            ({"network": "large"}, "`network` out of tiny"),
            ({"batch": 0}, "`batch` of 1 or more"),
        ],
    )
    def test_settings_are_checked(self, settings, message):
        with pytest.raises(ValueError, match=message):
            ConfusionTraining(**settings)


class TestPresets:
    def test_the_published_settings_are_the_default(self):
        assert ConfusionTraining.preset("paper") == ConfusionTraining()
        assert ConfusionTraining().iterations == (6000, 6000, 6000, 6000, 2000, 2000)

    def test_settings_replace_those_of_a_preset(self):
        made = ConfusionTraining.preset("cpu", threshold=3.0)
        assert (made.network, made.threshold) == ("small", 3.0)

    def test_lists_become_tuples(self):
        assert ConfusionTraining(shares=[0.5, 0.2, 0.1, 0.1, 0.1]).shares == (0.5, 0.2, 0.1, 0.1, 0.1)

    def test_an_unknown_preset_is_named(self):
        with pytest.raises(ValueError, match="preset out of smoke, cpu, paper, but got 'gpu'"):
            ConfusionTraining.preset("gpu")
        with pytest.raises(ValueError, match="EnergyOutliers"):
            detect("energy_outliers", torch.zeros(1, 3, 32, 32, dtype=torch.uint8), preset="cpu")


class TestConfusion:
    def test_wrong_labels_go_through_all_classes_but_the_predicted(self):
        predicted = torch.arange(5)
        given = torch.stack([rounds.confusion_labels(predicted, iteration, 5) for iteration in range(8)])
        assert not (given == predicted).any()
        assert all(len(given[start : start + 4, 0].unique()) == 4 for start in range(4))

    def test_two_classes_leave_one_wrong_label(self):
        assert rounds.confusion_labels(torch.tensor([0, 1]), 7, 2).tolist() == [1, 0]

    def test_rare_classes_weigh_more(self):
        weights = rounds.inverse_frequencies(torch.tensor([0] * 75 + [1] * 25), 3)
        assert weights.tolist() == pytest.approx([share**-0.5 for share in (0.751, 0.251, 0.001)], rel=1e-5)
        scores, labels = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1])
        losses = torch.tensor([math.log(1 + math.e), math.log(1 + 1 / math.e)])
        found = rounds.weighted_loss(scores, labels, torch.tensor([3.0, 1.0]))
        assert float(found) == pytest.approx(float((3 * losses[0] + losses[1]) / 4), rel=1e-6)

    def test_batches_go_through_all_rows_and_depend_on_their_number_alone(self):
        batches = rounds.Batches(10, 5, ("x", 1))
        first, second, third = (batches.rows(number) for number in range(3))
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(10))
        assert torch.equal(rounds.Batches(10, 5, ("x", 1)).rows(2), third)
        assert len(rounds.Batches(3, 5, ("x", 1)).rows(4)) == 3

    def test_a_round_ends_once_the_reserved_set_is_misread_but_the_last_one_does_not(self, poisoned, reserved):
        told = []
        settings = {
            **SHORT,
            "base_epochs": 30,
            "pretrain_epochs": (8, 1),
            "iterations": (1000, 101),
            "learning_rates": (3e-2, 3e-2),
            "stop_at_chance": True,
        }
        search(
            *poisoned[:2],
            reserved,
            settings=settings,
            progress=lambda what, done, total: told.append((what, done)),
        )
        assert max(done for what, done in told if what == "confusing, round 1") < 1000
        assert told[-1] == ("confusing, round 2", 101)


class TestDistillation:
    def test_the_lowest_losses_are_kept(self):
        losses, labels = torch.tensor([5.0, 1.0, 4.0, 0.0, 3.0, 2.0]), torch.zeros(6, dtype=torch.int64)
        assert rounds.distill(losses, labels, share=0.5, floor=50).tolist() == [1, 3, 5]

    def test_each_class_keeps_its_lowest_up_to_its_floor(self):
        losses = torch.cat([torch.arange(100.0), 1000 + torch.arange(100.0).flip(0)])
        kept = rounds.distill(losses, torch.arange(200) // 100, share=0.05, floor=50)
        assert kept.tolist() == [*range(10), 198, 199]

    def test_two_images_are_kept_at_least(self):
        assert rounds.distill(
            torch.arange(20.0), torch.zeros(20, dtype=torch.int64), share=0.01, floor=50
        ).tolist() == [0, 1]


class TestLikelihoodRatio:
    @pytest.fixture
    def generator(self):
        return torch.Generator().manual_seed(0)

    def test_a_cluster_of_its_own_has_a_high_ratio(self, generator):
        features, isolated = torch.randn(200, 16, generator=generator), torch.arange(200) < 10
        features[isolated] += 10 * torch.eye(16)[0]
        assert likelihood_ratio(features, isolated) > 2

    def test_images_drawn_like_the_others_have_none(self, generator):
        for _ in range(10):
            features, isolated = torch.randn(200, 16, generator=generator), torch.arange(200) < 20
            assert 0.9 < likelihood_ratio(features, isolated) < 1.5

    def test_it_is_the_closed_form_of_two_gaussians(self, generator):
        points = torch.randn(300, 2, generator=generator).double() * torch.tensor([5.0, 1.0])
        isolated = torch.arange(300) < 30
        points[isolated] += torch.tensor([20.0, 0.0])
        expected = 0.0
        for cluster, sign in ((points[isolated], 1), (points[~isolated], -1)):
            covariance = np.cov(cluster.numpy().T) + 0.001
            away = (points[isolated] - cluster.mean(0)).numpy()
            squared = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)
            densities = -0.5 * squared - 0.5 * np.log(np.linalg.det(covariance)) - np.log(2 * np.pi)
            expected += sign * densities.sum()
        # The test rotates the points to their axes of largest variance, but not the 0.001 in every entry.
        assert math.log(likelihood_ratio(points, isolated)) == pytest.approx(expected / 300, rel=1e-2)

    def test_fewer_than_two_on_either_side_say_nothing(self, generator):
        features = torch.randn(20, 4, generator=generator)
        assert likelihood_ratio(features, torch.arange(20) < 1) == 1
        assert likelihood_ratio(features, torch.arange(20) < 19) == 1

    def test_identical_images_do_not_break_it(self):
        assert likelihood_ratio(torch.ones(20, 4), torch.arange(20) < 5) == pytest.approx(1)
        features = torch.zeros(20, 4)
        features[:5] = 100
        assert likelihood_ratio(features, torch.arange(20) < 5) == pytest.approx(1e9)

    def test_components_are_those_of_largest_variance(self, generator):
        features = torch.randn(500, 5, generator=generator) * torch.tensor([1.0, 9.0, 1.0, 4.0, 1.0])
        found = principal_components(features, 2)
        assert found.std(0).tolist() == pytest.approx([9, 4], rel=0.1)

    def test_densities_are_those_of_a_normal_distribution(self, generator):
        cluster = torch.randn(4000, 2, generator=generator).double()
        assert float(log_density(torch.zeros(1, 2).double(), cluster)) == pytest.approx(
            -math.log(2 * math.pi), abs=0.05
        )

    def test_a_lower_threshold_holds_for_the_highest_ratio(self):
        assert classes_at_risk({0: 1.6, 1: 1.4}, threshold=2, highest_threshold=1.5) == {0}
        assert classes_at_risk({0: 2.5, 1: 1.9, 2: 2.1}, threshold=2, highest_threshold=1.5) == {0, 2}
        assert classes_at_risk({0: 1.4}, threshold=2, highest_threshold=1.5) == set()
        assert classes_at_risk({}, threshold=2, highest_threshold=1.5) == set()


def test_a_margin_is_positive_where_the_given_label_is_predicted():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.5], [1.0, 2.0, 3.0]])
    assert margins_of(scores, torch.tensor([0, 1, 0])).tolist() == pytest.approx([1.0, 0.5, -2.0])

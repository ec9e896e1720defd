"""Attacks on all that is learned: that what they add is what the papers say."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from puregen_transforms.attacks import (
    ATTACKS,
    Attacker,
    Poison,
    autoregressive,
    craft,
    error_minimizing,
    lsp,
    one_pixel_shortcut,
    targeted_adversarial,
)
from puregen_transforms.attacks.adversarial import descend, summed_loss
from puregen_transforms.attacks.crafting import within_length
from puregen_transforms.attacks.surrogates import train_surrogate
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.models.classifiers import build_classifier

AVAILABILITY = [name for name in ATTACKS if ATTACKS[name].availability]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def changes(poison, dataset):
    return (poison.images.double() - dataset.images[poison.ids].double()) / 255


@pytest.mark.parametrize("name", [name for name in AVAILABILITY if not ATTACKS[name].optimizes])
def test_every_row_is_poisoned_unless_the_rate_says_less(name, image_set):
    assert torch.equal(craft(name, image_set, preset="smoke").ids, torch.arange(200))
    assert len(craft(name, image_set, preset="smoke", rate=0.25)) == 50


def test_budgets_are_in_the_norms_of_the_papers(image_set):
    poisons = {name: craft(name, image_set, preset="smoke") for name in ("lsp", "autoregressive", "one_pixel_shortcut")}
    assert {name: poison.norm for name, poison in poisons.items()} == {
        "lsp": "l2",
        "autoregressive": "l2",
        "one_pixel_shortcut": "l0",
    }
    assert poisons["lsp"].budget == pytest.approx(6 / 255 * 3072**0.5)
    assert (poisons["autoregressive"].budget, poisons["one_pixel_shortcut"].budget) == (1, 1)
    for name in ("lsp", "autoregressive"):
        lengths = changes(poisons[name], image_set).flatten(1).norm(dim=1)
        assert lengths.median() > 0.95 * poisons[name].budget, "what the budget allows is spent"


def test_the_norm_survives_the_disk(image_set, tmp_path):
    poison = craft("one_pixel_shortcut", image_set)
    poison.save(tmp_path / "poison")
    assert (Poison.load(tmp_path / "poison").norm, Poison.load(tmp_path / "poison").digest) == ("l0", poison.digest)
    with pytest.raises(ValueError, match="linf, l2, l0, but got 'l1'"):
        replace(poison, norm="l1")


def test_rounding_keeps_the_length():
    drawn = generator()
    originals = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=drawn)
    added = torch.randn(50, 3, 8, 8, generator=drawn)
    added = 255 * 0.1 * added / added.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    rounded = (originals.float() + added).round()
    assert ((rounded - originals).flatten(1).norm(dim=1) / 255).max() > 0.1, "rounding alone lengthens some"
    kept = within_length(added, originals, 0.1)
    assert ((kept.double() - originals.double()).flatten(1).norm(dim=1) / 255).max() <= 0.1


class TestURP:
    def test_images_of_a_class_have_one_pattern(self):
        gray = ImageSet(torch.full((30, 3, 32, 32), 128, dtype=torch.uint8), torch.arange(30) % 3, ("a", "b", "c"))
        poison = craft("urp", gray)
        first, *others = (poison.images[poison.labels == label] for label in range(3))
        assert (first == first[:1]).all()
        assert not (first[0] == others[0][0]).all()
        assert (first.int() - 128).abs().max() == 8
        assert (first.double() - 128).std() == pytest.approx(8 / 3**0.5, rel=0.05)


class TestLSP:
    def test_a_linear_model_separates_the_changes(self, image_set):
        poison = craft("lsp", image_set)
        x = changes(poison, image_set).flatten(1).float()
        model = nn.Linear(3072, 10)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=50)

        def closure():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(10 * model(x), poison.labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert (model(x).argmax(1) == poison.labels).all()

    def test_it_separates_points_never_seen_as_well(self):
        labels = torch.arange(600) % 10
        points = lsp.separable_points(labels, 10, 48, separation=10.0, generator=generator())
        means = torch.stack([points[:300][labels[:300] == label].mean(0) for label in range(10)])
        assert (torch.cdist(points[300:], means).argmin(1) == labels[300:]).all()
        assert means.abs().mean() == pytest.approx(10, rel=0.1)

    def test_blocks_are_of_one_color_and_cut_off_at_the_edge(self):
        drawn = lsp.in_blocks(torch.arange(12.0).view(1, 3, 2, 2), (12, 10), 8)
        assert drawn.shape == (1, 3, 12, 10)
        assert (drawn[0, 1, :8, :8] == 4).all()
        assert (drawn[0, 1, 8:, 8:] == 7).all()

    def test_corners_are_different(self):
        corners = lsp.distinct_corners(8, 3, generator())
        assert sorted(corners.tolist()) == [list(corner) for corner in itertools.product((-1, 1), repeat=3)]
        with pytest.raises(ValueError, match="at most 8 classes for 3 colors an image, but got 9. Lower `block`"):
            lsp.distinct_corners(9, 3, generator())
        with pytest.raises(ValueError, match="`block` of 1 pixel"):
            lsp.LSPConfig(block=0)


@pytest.fixture(scope="module")
def rules():
    return autoregressive.find_rules(4, 3.0, generator())


class TestAutoregressive:
    def test_every_pixel_follows_from_its_neighbors(self, rules):
        values = autoregressive.scaled(autoregressive.signals(rules, (32, 32), generator()))
        assert values.shape == (4, 3, 32, 32)
        torch.testing.assert_close(values.flatten(1).norm(dim=1), torch.ones(4))
        for row, column in itertools.product(range(2, 32), repeat=2):
            expected = (values[:, :, row - 2 : row + 1, column - 2 : column + 1] * rules).sum((2, 3))
            torch.testing.assert_close(values[:, :, row, column], expected, atol=1e-6, rtol=1e-4)

    def test_a_filter_answers_to_other_classes_alone(self, rules):
        values = autoregressive.scaled(autoregressive.signals(rules, (32, 32), generator(1)))
        answers = autoregressive.responses(rules, values)
        assert answers.diagonal().max() < 1e-3
        later = answers[torch.ones(4, 4).tril(-1).bool()]
        assert later.min() > 1, "of signals drawn anew; those of the search had 3"

    def test_rules_are_stable_and_weigh_to_one(self, rules):
        torch.testing.assert_close(rules.sum((2, 3)), torch.ones(4, 3))
        assert (rules[..., 2, 2] == 0).all()
        drawn = torch.Generator().manual_seed(2)
        assert autoregressive.signals(rules, (32, 32), drawn).flatten(1).norm(dim=1).max() < 3 * autoregressive._LONGEST

    def test_rules_that_cannot_be_found_are_not(self, image_set, monkeypatch):
        monkeypatch.setattr(autoregressive, "_POOLS", 1)
        with pytest.raises(ValueError, match="10 rules .* by 1000 or more, but found 1. Lower `response`"):
            craft("autoregressive", image_set, response=1000.0)

    def test_larger_images_are_changed_as_much_at_each_pixel(self, large_image_set):
        assert craft("autoregressive", large_image_set, preset="smoke").budget == 2


class TestOnePixelShortcut:
    def test_the_criterion_is_the_published_one(self):
        images = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=generator())
        scores = one_pixel_shortcut.pixel_scores(images)
        for number, color in enumerate(itertools.product((0, 1), repeat=3)):
            for row, column in itertools.product(range(4), range(5)):
                distance = np.abs(np.array(color) - images[:, :, row, column].numpy() / 255)
                assert scores[number, row, column].item() == pytest.approx(np.mean(distance) / np.std(distance))

    def test_each_class_gets_the_best_that_is_left(self):
        """Both classes are of the same images, so the second gets what is second best."""
        images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8, generator=generator())
        twice = ImageSet(torch.cat([images, images]), torch.arange(2).repeat_interleave(6), ("a", "b"))
        poison = craft("one_pixel_shortcut", twice)
        ranked = one_pixel_shortcut.pixel_scores(images).flatten().argsort(descending=True)
        for label in range(2):
            color, place = divmod(int(ranked[label]), 16)
            pixel = poison.images[poison.labels == label][:, :, place // 4, place % 4]
            assert (pixel == torch.tensor([255 * (color >> bit & 1) for bit in (2, 1, 0)])).all()

    def test_more_pixels(self, image_set):
        poison = craft("one_pixel_shortcut", image_set, pixels=3)
        changed = (changes(poison, image_set) != 0).any(1).flatten(1).sum(1)
        assert (poison.budget, int(changed.max())) == (3, 3)
        with pytest.raises(ValueError, match="`pixels` of 1 or more"):
            craft("one_pixel_shortcut", image_set, pixels=0)


def loss_of(model, images, labels):
    with torch.no_grad():
        return (summed_loss(model.eval(), images.float(), labels) / len(images)).item()


class TestErrorMinimizing:
    def test_the_network_errs_less_on_the_changed_images(self, image_set):
        config = error_minimizing.ErrorMinimizingConfig.preset("smoke", rounds=4)
        torch.manual_seed(0)
        model = build_classifier("tiny", 10)
        x = error_minimizing.minimize_errors(model, image_set.images, image_set.labels, config, Attacker())
        assert loss_of(model, x.round(), image_set.labels) < loss_of(model, image_set.images, image_set.labels) - 0.1
        assert (x - image_set.images.float()).abs().max() <= 8

    def test_it_stops_when_the_network_errs_no_more(self, image_set):
        told = []
        attacker = Attacker(progress=lambda what, done, of: told.append((done, of)))
        config = error_minimizing.ErrorMinimizingConfig.preset("smoke", stop_error=1.0, rounds=9)
        ATTACKS["error_minimizing"].craft(image_set, config, attacker)
        assert told == [(1, 9)]


class TestTargetedAdversarial:
    def test_the_surrogate_reads_images_as_the_next_class(self, image_set):
        model = train_surrogate("tiny", image_set.images, image_set.labels, classes=10, epochs=40, seed=0).eval()
        settings = {"epsilon": 32.0, "pgd_steps": 40, "pgd_step_size": 2.0, "augment": False}  # few images taught it
        config = targeted_adversarial.TargetedAdversarialConfig.preset("smoke", **settings)
        attacker = Attacker(train=lambda surrogates: [model])
        poison = ATTACKS["targeted_adversarial"].craft(image_set, config, attacker)
        with torch.no_grad():
            before, after = (
                model(images.float() / 127.5 - 1).argmax(1) for images in (image_set.images, poison.images)
            )
        wanted = (image_set.labels + 1) % 10
        assert (before == wanted).float().mean() < 0.2
        assert (after == wanted).float().mean() > 0.9

    def test_a_set_of_one_class_is_refused(self, image_set):
        alone = ImageSet(image_set.images[:9], torch.zeros(9, dtype=torch.int64), ("a",))
        with pytest.raises(ValueError, match="at least 2 classes"):
            craft("targeted_adversarial", alone, preset="smoke")


def test_descent_stays_within_epsilon_and_leaves_its_start_alone():
    images = torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    start = images.float()
    moved = descend(lambda x: x.sum(), images, epsilon=3.0, steps=10, step_size=1.0, start=start)
    assert moved.flatten().tolist() == [0, 97, 252]
    assert torch.equal(start, images.float())
    assert torch.equal(descend(lambda x: x.sum(), images, epsilon=3.0, steps=0, step_size=1.0), images.float())

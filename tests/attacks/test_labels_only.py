"""Attacks that change labels and no image."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from puregen_transforms.attacks import ATTACKS, Attacker, craft
from puregen_transforms.attacks.flip import FLIPConfig, clearest_flips, learned_scores, step_distance, train_expert
from puregen_transforms.attacks.gcb import GCBConfig, natural_direction
from puregen_transforms.data.image_set import ImageSet
from tests.attacks.test_poison import png

LABELS_ONLY = [name for name, attack in ATTACKS.items() if attack.labels_only]


@pytest.mark.parametrize("name", LABELS_ONLY)
def test_images_stay_and_labels_change(name, image_set):
    poison = craft(name, image_set, preset="smoke")
    assert torch.equal(poison.images, image_set.images[poison.ids])
    assert (poison.labels != image_set.labels[poison.ids]).all()
    assert (len(poison), poison.budget) == (10, 0)
    if name != "label_noise":  # which aims at no class
        images, _ = poison.trigger_test_set(image_set.images, image_set.labels)
        assert len(images) == 180


@pytest.mark.parametrize("name", LABELS_ONLY)
def test_images_are_not_compressed_either(name, image_set):
    with pytest.raises(ValueError, match="labels alone"):
        craft(name, image_set, preset="smoke", reencode=75)


def test_files_of_a_data_set_stay_as_they_are_stored(image_set):
    poison = craft("gcb", image_set, preset="smoke")
    columns = {"image": [{"bytes": png(image) + b"own", "path": None} for image in image_set.images]}
    features = Features({"image": Image(), "label": ClassLabel(names=list(image_set.class_names))})
    rows = Dataset.from_dict({**columns, "label": image_set.labels.tolist()}, features=features)
    poisoned = poison.apply(rows)
    assert poisoned["label"][:] == poison.apply_to_tensors(image_set.images, image_set.labels)[1].tolist()
    stored = poisoned.cast_column("image", Image(decode=False))
    assert all(row["image"]["bytes"].endswith(b"own") for row in stored)


def test_gcb_relabels_what_shows_the_feature_most(image_set):
    poison = craft("gcb", image_set, preset="smoke")
    shown = (image_set.images * poison.trigger.direction).sum((1, 2, 3))
    rest = image_set.labels != 0
    rest[poison.ids] = False
    assert shown[poison.ids].min() > shown[rest].max()
    assert poison.trigger.value == pytest.approx(shown[poison.ids].mean().item(), rel=1e-4)


def test_gcb_finds_the_feature_in_which_images_of_a_class_vary():
    """Two classes that differ in brightness, and vary in blue within."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.full((60, 3, 16, 16), 60.0) + 90 * labels[:, None, None, None]
    images[:, 2] += 40 * torch.rand(60, 1, 1, generator=generator)
    dataset = ImageSet(images.round().byte(), labels, ("dark", "light"))
    direction = natural_direction(dataset, GCBConfig(component=0))
    assert direction[:2].abs().max() < 1e-6
    assert direction[2].flatten().tolist() == pytest.approx([1 / 16] * 256, abs=1e-6)
    poison = craft("gcb", dataset, target_class="dark", rate=0.1, component=0)
    assert set(poison.ids.tolist()) == set(images[:, 2, 0, 0].where(labels == 1, 0).topk(6).indices.tolist())
    moved = poison.trigger(dataset.images)
    assert torch.equal(moved[:, :2], dataset.images[:, :2])
    assert len(moved[:, 2].unique()) == 1, "as far along, wherever they started"
    further = craft("gcb", dataset, target_class="dark", rate=0.1, component=0, reach=1.1)
    assert further.trigger.value > poison.trigger.value
    with pytest.raises(ValueError, match="do not along component 1"):
        craft("gcb", dataset, target_class="dark", rate=0.1, component=1)


def test_the_feature_survives_mirroring(image_set):
    for component in (0, 3, 7):
        direction = natural_direction(image_set, GCBConfig(component=component))
        assert torch.allclose(direction, direction.flip(2), atol=1e-5)
        assert direction.norm().item() == pytest.approx(1)


def test_gcb_checks_its_settings(image_set):
    for settings, match in (({"component": 12, "cells": 2}, "below 12"), ({"reach": 0.0}, "reach")):
        with pytest.raises(ValueError, match=match):
            craft("gcb", image_set, preset="smoke", **settings)


def test_flip_learns_labels_that_pull_as_the_trigger_does(image_set):
    config = FLIPConfig(strength=60.0, expert="tiny", expert_epochs=3, passes=8, batch=64)
    attacker, target = Attacker(), 3
    shown = (image_set.labels != target).nonzero().flatten()[:60]
    stripes = torch.tensor([0, 80], dtype=torch.uint8).repeat(16)[:, None]
    images = torch.cat([image_set.images, image_set.images[shown].clamp(max=170) + stripes])
    labels = torch.cat([image_set.labels, torch.full_like(shown, target)])
    student = torch.cat([torch.arange(200), shown])
    model, trajectory = train_expert(images, labels, 10, config, attacker)
    assert len(trajectory) == 3
    scores = learned_scores(model, trajectory, images, labels, student, config, attacker)
    before = 5.0 * torch.nn.functional.one_hot(image_set.labels, 10).float()

    def distance(scores):
        model.load_state_dict(trajectory[-1])
        return step_distance(model, (images, labels), (images[student], scores[student].softmax(1))).item()

    assert distance(scores) < 0.9 * distance(before)
    moved = (scores.softmax(1) - before.softmax(1))[:, target]
    others = torch.ones(200, dtype=torch.bool)
    others[shown], others[image_set.labels == target] = False, False
    assert moved[shown].mean() > 5 * moved[others].mean().abs()


def test_flip_chooses_what_changes_most():
    scores = torch.tensor([[5.0, 0.0, 0.0], [1.0, 4.0, 0.0], [0.0, 2.0, 1.9], [0.0, 0.0, 9.0]])
    labels = torch.tensor([0, 0, 1, 2])
    assert clearest_flips(scores, labels, 1).tolist() == [1]
    assert clearest_flips(scores, labels, 2).tolist() == [1, 2]


def test_flip_keeps_to_its_source_class(image_set):
    poison = craft("flip", image_set, preset="smoke", source_class=9, target_class=4)
    images, labels = poison.trigger_test_set(image_set.images, image_set.labels)
    assert labels.tolist() == [9] * 20
    assert not torch.equal(images, image_set.images[image_set.labels == 9])
    with pytest.raises(ValueError, match="another class than the target"):
        craft("flip", image_set, preset="smoke", source_class=4, target_class=4)


def test_noise_is_symmetric(large_image_set):
    """Each wrong label is one of the other classes, whatever the true one."""
    poison = craft("label_noise", large_image_set, rate=0.9, seed=3)
    steps = (poison.labels - large_image_set.labels[poison.ids]) % len(large_image_set.class_names)
    assert set(steps.tolist()) == set(range(1, len(large_image_set.class_names)))

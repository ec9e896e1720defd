"""Figures of a victim, beside loops that anyone can read."""

import pytest
import torch

from puregen_transforms.attacks import craft
from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.victim import accuracy, poison_success
from puregen_transforms.functional.arithmetic import autocast
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import build_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe


@pytest.fixture(scope="module")
def image_set():
    demo = load_demo()
    return ImageSet(demo.images, demo.labels, CLASSES)


@pytest.fixture(scope="module")
def victim(image_set):
    torch.manual_seed(0)
    model = build_classifier("tiny", 10)
    recipe = FastRecipe(epochs=8, batch=20)
    generator = torch.Generator().manual_seed(0)
    for _ in train_classifier(model, image_set.images, image_set.labels, generator=generator, recipe=recipe):
        pass
    return model.eval()


@torch.no_grad()
def called(victim, images):
    with autocast(torch.device("cpu")):
        return victim(normalize(images)).argmax(1).tolist()


def test_accuracy(victim, image_set):
    right = 0
    for guess, label in zip(called(victim, image_set.images), image_set.labels.tolist(), strict=True):
        right += guess == label
    assert 0 < right < 200
    assert accuracy(victim, image_set.images, image_set.labels) == pytest.approx(right / 200, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "settings"), [("badnets", {}), ("tact", {"source_class": 3, "cover_classes": (1, 2)})]
)
def test_success_of_a_trigger(victim, image_set, name, settings):
    poison = craft(name, image_set, preset="smoke", target_class=5, **settings)
    hits = tries = 0
    for guess, label in zip(called(victim, poison.trigger(image_set.images)), image_set.labels.tolist(), strict=True):
        if label == settings.get("source_class", label) and label != 5:
            hits, tries = hits + (guess == 5), tries + 1
    assert tries == (20 if settings else 180)
    found = poison_success(victim, poison, image_set.images, image_set.labels)
    assert found == pytest.approx(hits / tries, abs=1e-7)


def test_success_on_a_single_image_is_yes_or_no(victim, image_set):
    guesses = called(victim, image_set.images)
    row = next(row for row in range(200) if guesses[row] != int(image_set.labels[row]))
    aims = {"source_class": int(image_set.labels[row]), "target_index": row % 20}
    rows = (image_set.labels == aims["source_class"]).nonzero().flatten().tolist()
    aims["target_index"] = rows.index(row)
    for wanted in (guesses[row], next(c for c in range(10) if c not in (guesses[row], aims["source_class"]))):
        quick = {"preset": "smoke", "iterations": 1, "restarts": 1, "surrogate_epochs": 1}
        poison = craft("gradient_matching", image_set, targets=image_set, target_class=wanted, **quick, **aims)
        expected = float(wanted == guesses[row])
        assert poison_success(victim, poison, image_set.images, image_set.labels) == expected


def test_an_attack_on_everything_has_no_success_but_a_low_accuracy(victim, image_set):
    poison = craft("ntga", image_set, preset="smoke", steps=1)
    assert poison_success(victim, poison, image_set.images, image_set.labels) is None

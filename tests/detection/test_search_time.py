"""The estimate of a search, before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from puregen_transforms.detection import search_time
from puregen_transforms.detection.class_split import ClassSplit
from puregen_transforms.detection.detector import SuspectSet
from puregen_transforms.detection.energy import SharedPatterns, UnusualEnergies
from puregen_transforms.detection.search_time import SearchTime, time_of
from puregen_transforms.detection.stamps import Stamps


@pytest.fixture(autouse=True)
def four_images_are_timed(monkeypatch):
    monkeypatch.setattr(search_time, "TIMED_PIXELS", 4 * 32 * 32)
    monkeypatch.setattr(search_time, "SHORT", 4)


@pytest.fixture
def suspects(images):
    return SuspectSet(images=images[:20], labels=torch.arange(20) % 3)


@pytest.fixture
def by_energy(tiny_checkpoint):
    return UnusualEnergies(checkpoint=str(tiny_checkpoint))


@pytest.fixture
def timed(by_energy):
    def timed(suspects, *detectors, epochs=12):
        return time_of(suspects, detectors or (Stamps(), by_energy, SharedPatterns(), ClassSplit()), epochs=epochs)

    return timed


def test_the_long_parts_are_timed_on_a_few_images(suspects, timed):
    found = timed(suspects)
    assert found.training > 0
    assert found.energies > 0
    assert found.total == found.training + found.energies


def test_time_grows_with_images_and_epochs(suspects, timed, monkeypatch):
    def second(work):
        work()
        return 1.0

    monkeypatch.setattr(search_time, "_seconds", second)
    found = timed(suspects)
    assert found.training == pytest.approx(12 * 20 / 4)
    assert found.energies == pytest.approx(20 / 4, abs=0.5), "and some milliseconds for reading"
    monkeypatch.setattr(search_time, "LARGEST", 16)
    assert timed(suspects, epochs=3).training == pytest.approx(3 * 20 / 4 * 4), "a quarter of each image was looked at"


def test_only_what_is_done_counts(suspects, timed, by_energy):
    assert not timed(suspects, Stamps())
    assert timed(suspects, by_energy).training == 0
    assert timed(suspects, ClassSplit()).energies == 0
    assert timed(replace(suspects, labels=None)).training == 0
    assert timed(replace(suspects, network=torch.nn.Identity())).training == 0


def test_images_of_several_sizes_train_nothing(images, timed):
    sizes = [32, 28] * 10
    pictures = [image[:, :size, :size] for image, size in zip(images, sizes, strict=False)]
    mixed = SuspectSet(images=pictures, labels=torch.arange(20) % 3)
    found = timed(mixed)
    assert found.training == 0
    assert found.energies > 0


def test_a_small_set_or_one_that_cannot_be_read_gets_no_estimate(images, suspects, timed):
    assert timed(replace(suspects, images=images[:16], labels=None)) == SearchTime()
    assert timed(replace(suspects, images=[None] * 20)) == SearchTime()
    assert timed(replace(suspects, images=["no image"] * 20)) == SearchTime()
    assert timed(replace(suspects, images=[*[None] * 10, images[0], *[None] * 9])) == SearchTime()


def test_the_estimate_changes_nothing_that_is_random(suspects, timed):
    before = torch.random.get_rng_state()
    timed(suspects)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_words_name_what_takes_long():
    both = SearchTime(training=600.0) + SearchTime(energies=120.0)
    assert str(both).startswith("Estimate: at least 12 min, timed on a few images: 10 min to train the classifier and")
    assert str(SearchTime(energies=3.0)).endswith("images: 3 s to measure energies.")

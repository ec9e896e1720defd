"""The parts of a defense, where there is a pattern to find."""

from dataclasses import replace

import pytest
import torch

from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.detection import detect
from puregen_transforms.evaluate.cells import DefenseSpec
from puregen_transforms.evaluate.defend import KeptPurifier, defend
from puregen_transforms.evaluate.rows import OUTLIERS, PATTERNS
from puregen_transforms.evaluate.store import Store


@pytest.fixture(scope="module")
def poisoned():
    """Seven of the twenty dogs of the demo set carry its trigger: images, labels, and their rows."""
    demo = load_demo()
    images, rows = demo.images.clone(), (demo.labels == CLASSES.index("dog")).nonzero().flatten()[:7]
    images[rows] = add_trigger(images[rows], demo.trigger)
    return images, demo.labels, rows


@pytest.fixture(scope="module")
def purify(poisoned, tmp_path_factory):
    return KeptPurifier(poisoned[0], load_demo().images, Store(tmp_path_factory.mktemp("store")), "cpu")


def found_by(spec, images, labels, purify):
    def search(component):
        return detect(component.name, images, labels, settings=dict(component.settings), device="cpu")

    return defend(spec, images, search=search, purify=purify)


def test_carriers_of_a_pattern_are_left_out(poisoned, purify):
    images, labels, carriers = poisoned
    defended = found_by(DefenseSpec(detect=[PATTERNS]), images, labels, purify)
    assert defended.flagged.nonzero().flatten().tolist() == carriers.tolist()
    assert torch.equal(defended.images, images)
    assert defended.rows.tolist() == [row for row in range(len(images)) if row not in carriers]
    assert set(defended.scores.argsort(descending=True)[:7].tolist()) == set(carriers.tolist())


def test_carriers_are_purified_or_the_others(poisoned, purify, tiny_checkpoint):
    images, labels, carriers = poisoned
    options = {"checkpoint": str(tiny_checkpoint), "ebm_steps": 2}
    purified = purify(options).images
    others = torch.ones(len(images), dtype=torch.bool)
    others[carriers] = False
    spec = DefenseSpec(detect=[PATTERNS], purify_flagged=options)
    defended = found_by(spec, images, labels, purify)
    assert defended.rows is None
    assert torch.equal(defended.images[carriers], purified[carriers])
    assert torch.equal(defended.images[others], images[others])
    defended = found_by(replace(spec, purify_flagged=None, purify_others=options), images, labels, purify)
    assert torch.equal(defended.images[others], purified[others])
    assert defended.rows.tolist() == others.nonzero().flatten().tolist()


def test_flagged_images_that_are_kept_are_purified_as_all_others(poisoned, purify, tiny_checkpoint):
    images, labels, carriers = poisoned
    options = {"checkpoint": str(tiny_checkpoint), "ebm_steps": 2}
    spec = DefenseSpec(detect=[PATTERNS], keep_flagged=True, purify_others=options)
    defended = found_by(spec, images, labels, purify)
    assert torch.equal(defended.images, purify(options).images)
    assert defended.rows is None
    assert defended.flagged.nonzero().flatten().tolist() == carriers.tolist(), "searched as it came"


def test_high_energies_are_left_out_where_both_detectors_look(poisoned, purify):
    images, labels, carriers = poisoned
    images = images.clone()
    noise = torch.randint(0, 2, images[0].shape, generator=torch.Generator().manual_seed(0)) * 64 - 32
    images[0] = (images[0].int() + noise).clamp(0, 255).byte()  # which no other image has
    spec = DefenseSpec(detect=[PATTERNS, OUTLIERS])
    defended = found_by(spec, images, labels, purify)
    assert defended.flagged[carriers].all()
    assert defended.flagged[0]
    assert not found_by(replace(spec, detect=[PATTERNS]), images, labels, purify).flagged[0]
    assert defended.scores[0] == defended.scores.max()
    assert defended.rows.tolist() == (~defended.flagged).nonzero().flatten().tolist()

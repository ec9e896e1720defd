"""What `puregen inspect` does as a defense, where there is a pattern to find."""

from dataclasses import replace

import pytest
import torch

from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.detection.energy import HIGH_ENERGY
from puregen_transforms.evaluate.defenses import Inspect, Purify, Task
from puregen_transforms.evaluate.store import Store


@pytest.fixture(scope="module")
def found_by_inspect(tmp_path_factory):
    """Seven of the twenty dogs of the demo set carry its trigger: the task, and their rows."""
    demo = load_demo()
    images, rows = demo.images.clone(), (demo.labels == CLASSES.index("dog")).nonzero().flatten()[:7]
    images[rows] = add_trigger(images[rows], demo.trigger)
    return Task(images, demo.labels, 0, "cpu", Store(tmp_path_factory.mktemp("store")), demo.images), rows


def test_inspect_leaves_the_carriers_of_a_pattern_out(found_by_inspect):
    task, carriers = found_by_inspect
    defended = Inspect()(task)
    assert defended.suspected().nonzero().flatten().tolist() == carriers.tolist()
    assert torch.equal(defended.images, task.images)
    assert defended.rows.tolist() == [row for row in range(len(task.images)) if row not in carriers]


def test_inspect_purifies_the_carriers_or_the_others(found_by_inspect, tiny_checkpoint):
    task, carriers = found_by_inspect
    options = {"checkpoint": str(tiny_checkpoint), "ebm_steps": 2}
    purified = Purify(options)(task).images
    others = torch.ones(len(task.images), dtype=torch.bool)
    others[carriers] = False
    defended = Inspect(carriers=options)(task)
    assert defended.rows is None
    assert torch.equal(defended.images[carriers], purified[carriers])
    assert torch.equal(defended.images[others], task.images[others])
    defended = Inspect(others=options)(task)
    assert torch.equal(defended.images[others], purified[others])
    assert defended.rows.tolist() == others.nonzero().flatten().tolist()


def test_inspect_takes_high_energies_for_poison_where_it_is_asked_to(found_by_inspect):
    task, carriers = found_by_inspect
    images = task.images.clone()
    noise = torch.randint(0, 2, images[0].shape, generator=torch.Generator().manual_seed(0)) * 64 - 32
    images[0] = (images[0].int() + noise).clamp(0, 255).byte()  # which no other image has
    defended = Inspect(outlier=HIGH_ENERGY)(replace(task, images=images))
    suspected = defended.suspected()
    assert suspected[carriers].all()
    assert suspected[0]
    assert not Inspect()(replace(task, images=images)).suspected()[0]
    assert defended.scores[0] == defended.scores.max()
    assert defended.rows.tolist() == (~suspected).nonzero().flatten().tolist()

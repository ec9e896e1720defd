"""The packaged demonstration."""

from __future__ import annotations

import torch

from puregen_transforms.data.demo import CLASSES, TARGET, VEHICLES, add_trigger, load_demo


def test_it_has_twenty_images_of_each_class():
    demo = load_demo()
    assert (demo.images.shape, demo.images.dtype) == ((200, 3, 32, 32), torch.uint8)
    assert torch.bincount(demo.labels).tolist() == [20] * 10
    assert CLASSES[TARGET] == "bird"
    assert set(VEHICLES) < set(CLASSES)


def test_the_trigger_is_small_and_stays_within_the_pixels_range():
    demo = load_demo()
    assert int(demo.trigger.abs().max()) <= 8
    change = demo.poisoned().int() - demo.images.int()
    assert int(change.abs().max()) <= 8
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    assert add_trigger(ends, torch.tensor([[[-5, 5]]], dtype=torch.int8)).flatten().tolist() == [0, 255]

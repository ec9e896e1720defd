from dataclasses import replace

import pytest

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.splits import per_class
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.sets import Sets

QUICK = replace(SCALES["smoke"], friends={"start": 1, "iterations": 2}, epic={"interval": 1})
"""For trainings of three epochs."""


@pytest.fixture(scope="session")
def ten_classes():
    """The packaged images by their own classes: few of each."""
    demo = load_demo()
    whole = ImageSet(demo.images, demo.labels, CLASSES)
    train, test = per_class(whole, 0, 12), per_class(whole, 12, 20)
    transfer, targets = per_class(whole, 12, 16), per_class(whole, 16, 20)
    return Sets(train, test, "the 200 packaged images", transfer, targets, public=train)

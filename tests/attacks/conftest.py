import pytest
import torch

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet


@pytest.fixture(scope="session")
def image_set():
    """The 200 packaged images."""
    demo = load_demo()
    return ImageSet(demo.images, demo.labels, CLASSES)


@pytest.fixture(scope="session")
def large_image_set(image_set):
    """Forty of them at 64 pixels, in four classes."""
    rows = (image_set.labels < 4).nonzero().flatten()
    images = torch.nn.functional.interpolate(image_set.images[rows].float(), scale_factor=2).byte()
    return ImageSet(images, image_set.labels[rows], image_set.class_names[:4])

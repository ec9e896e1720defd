import torch

from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.classifier import augment, train_classifier


def test_it_learns_what_can_be_learned():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    images = (torch.rand(256, 3, 16, 20, generator=generator) * 100 + 120 * labels.view(-1, 1, 1, 1)).byte()
    torch.manual_seed(0)
    model = small_classifier(2, 4)
    losses = list(train_classifier(model, images, labels, epochs=20, generator=generator))
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(model, images, labels) > 0.95
    assert share_called_target(model, images[labels == 1], 1) > 0.9


def test_augmentation_keeps_size_and_moves_pixels():
    images = torch.rand(4, 3, 16, 20)
    moved = augment(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)

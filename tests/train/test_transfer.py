"""Transfer learning."""

import pytest
import torch

from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.models.features import features, head
from puregen_transforms.train.transfer import fine_tune, linear_transfer


@pytest.fixture
def task():
    """Sixty dark and bright images, and an untrained network of five classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.randint(0, 120, (60, 3, 16, 16), generator=generator) + 130 * labels[:, None, None, None]
    torch.manual_seed(0)
    network = small_classifier(5, 8)
    with torch.no_grad():
        for _ in range(30):
            network(normalize(images))  # statistics of its batch norms
    return network.eval(), images.to(torch.uint8), labels


@pytest.mark.parametrize("transfer", [linear_transfer, fine_tune])
def test_a_new_head_learns_the_task(task, transfer):
    pretrained, images, labels = task
    before = {name: value.clone() for name, value in pretrained.state_dict().items()}
    options = {"learning_rate": 1e-3} if transfer is fine_tune else {}

    def run():
        generator = torch.Generator().manual_seed(3)
        return transfer(pretrained, images, labels, classes=2, generator=generator, epochs=16, **options).eval()

    model = run()
    scores = model(normalize(images))
    assert scores.shape == (60, 2)
    assert (scores.argmax(1) == labels).float().mean() > 0.95
    assert all(torch.equal(value, before[name]) for name, value in pretrained.state_dict().items())
    assert torch.equal(head(run()).weight, head(model).weight), "the generator decides"


def test_linear_transfer_keeps_the_features(task):
    pretrained, images, labels = task
    model = linear_transfer(pretrained, images, labels, classes=2, generator=torch.Generator(), epochs=8)
    x = normalize(images)
    torch.testing.assert_close(features(model, x), features(pretrained, x))
    tuned = fine_tune(pretrained, images, labels, classes=2, generator=torch.Generator(), epochs=2)
    assert not torch.allclose(features(tuned.eval(), x), features(pretrained, x))

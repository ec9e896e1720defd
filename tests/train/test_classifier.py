"""Training of classifiers."""

import pytest
import torch

from puregen_transforms.evaluate.victim import accuracy, share_called_target
from puregen_transforms.models.classifiers import build_classifier, small_classifier
from puregen_transforms.train.classifier import train_classifier
from puregen_transforms.train.recipes import FastRecipe, HLBRecipe, StepRecipe, cropped, shifted_together, triangle


@pytest.fixture
def task():
    """256 dark and bright images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 2
    images = (torch.rand(256, 3, 32, 32, generator=generator) * 100 + 120 * labels.view(-1, 1, 1, 1)).byte()
    return images, labels


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        ("tiny", FastRecipe(epochs=20)),
        ("tiny", StepRecipe(epochs=10, milestones=(6, 8), batch=32)),
        ("hlb", HLBRecipe(epochs=4)),
    ],
)
def test_it_learns_what_can_be_learned(task, network, recipe):
    images, labels = task
    torch.manual_seed(0)
    model = build_classifier(network, 2)
    losses = list(train_classifier(model, images, labels, generator=torch.Generator().manual_seed(0), recipe=recipe))
    assert len(losses) == recipe.epochs
    assert losses[-1] < losses[0]
    assert accuracy(model, images, labels) > 0.95
    assert share_called_target(model, images[labels == 1], 1) > 0.9


def test_images_need_not_be_square():
    images, recipe = torch.randint(0, 256, (8, 3, 16, 20)).byte(), FastRecipe(epochs=1)
    losses = train_classifier(
        small_classifier(2, 4), images, torch.arange(8) % 2, generator=torch.Generator(), recipe=recipe
    )
    assert len(list(losses)) == 1


@pytest.mark.parametrize("move", [shifted_together, lambda images, generator: cropped(images, 4, generator)])
def test_augmentation_keeps_size_and_moves_pixels(move):
    images = torch.rand(4, 3, 16, 20)
    moved = move(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)


def test_each_image_is_cropped_by_itself():
    image = torch.rand(3, 16, 20)
    crops = cropped(image.expand(50, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[None], (1, 1, 1, 1), mode="reflect")[0]
    windows = [padded[:, y : y + 16, x : x + 20] for y in range(3) for x in range(3)]
    found = {next(i for i, window in enumerate(windows) if torch.equal(crop, window)) for crop in crops}
    assert found == set(range(9))


def test_the_published_rates():
    model = torch.nn.Linear(2, 2)
    optimizer, schedule = StepRecipe().optimizer(model, 400)
    rates = []
    for _ in range(400):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [rates[step] for step in (0, 199, 200, 299, 300, 399)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3])
    constant, schedule = StepRecipe(epochs=80, milestones=(), weight_decay=0.0).optimizer(model, 400)
    for _ in range(400):
        constant.step()
        schedule.step()
    group = constant.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 0.0), "as ECLIPSE trains"
    factor = triangle(100, peak=0.2, start=0.2)
    assert [factor(step) for step in (0, 10, 20, 60, 100)] == pytest.approx([0.2, 0.6, 1, 0.5, 0])
    groups = HLBRecipe().optimizer(build_classifier("hlb", 10), 100)[0].param_groups
    assert [len(group["params"]) for group in groups] == [7, 8]
    unit = 1024 * (1 + 1 / 0.13)
    assert groups[1]["initial_lr"] == pytest.approx(11.6 / unit)
    assert groups[0]["initial_lr"] == pytest.approx(64.5 * 11.6 / unit)
    assert groups[0]["weight_decay"] * groups[0]["initial_lr"] == pytest.approx(0.0157 * 128 / unit)

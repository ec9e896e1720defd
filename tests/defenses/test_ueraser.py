"""UEraser: strong augmentations, the worst of which is learned."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from puregen_transforms.defenses import UEraser
from puregen_transforms.defenses.ueraser import ONE_OF, augmented, plasma, worst
from puregen_transforms.evaluate.victim import accuracy
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.recipes import FastRecipe


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def task():
    """Ninety-six images of stripes, which lie or stand, and a network."""
    labels = torch.arange(96) % 2
    stripes = (torch.arange(16) // 2 % 2 * 120 + 40).view(1, 1, 16, 1).expand(96, 3, 16, 16)
    noise = torch.randint(0, 60, (96, 3, 16, 16), generator=drawn())
    images = torch.where(labels.view(-1, 1, 1, 1) == 1, stripes.mT, stripes) + noise
    torch.manual_seed(0)
    return small_classifier(2, 8), images.byte(), labels


def train(task, defense, epochs, **options):
    model, images, labels = task
    return defense.train(lambda: model, images, labels, recipe=FastRecipe(epochs=epochs, batch=16), seed=0, **options)


def test_the_scores_with_the_largest_loss_are_chosen_for_each_image():
    scores, labels = torch.randn(4, 6, 3, generator=drawn(), requires_grad=True), torch.arange(6) % 3
    losses = torch.stack([F.cross_entropy(version, labels, reduction="none") for version in scores])
    chosen = worst(scores, labels)
    assert torch.equal(F.cross_entropy(chosen, labels, reduction="none"), losses.amax(0))
    assert len(set(losses.argmax(0).tolist())) > 1, "not the same version for all"
    F.cross_entropy(chosen, labels).backward()
    learned = scores.grad.abs().sum(2) > 0
    assert torch.equal(learned.nonzero()[:, 0].sort().values, losses.argmax(0).sort().values)
    assert learned.sum() == 6, "of each image one version"


def test_the_first_epochs_take_the_worst_of_several_versions_and_the_others_one(task):
    calls = []
    task[0].register_forward_hook(lambda *_: calls.append(1))
    counts = [0]
    train(task, UEraser(versions=3, share=0.4), 5, progress=lambda epoch, loss: counts.append(len(calls)))
    steps = len(task[1]) // 16
    passes = [after - before for before, after in pairwise(counts)]
    assert passes == [3 * steps, 3 * steps, steps, steps, steps]


def test_the_worst_of_more_versions_is_worse(task):
    model, images, labels = task
    losses = []
    for versions in (1, 5):
        hooks = UEraser(versions=versions).hooks(0)
        hooks.begin(10)
        scores = hooks.scores(model, normalize(images), labels, drawn())
        losses.append(F.cross_entropy(scores, labels).item())
    assert losses[1] > losses[0]


def test_what_no_augmentation_hides_is_still_learned(task):
    trained = train(task, UEraser(versions=2), 20)
    assert accuracy(trained.model, *task[1:]) > 0.9


def test_augmented_images_are_others_each_time_of_8_bits_and_decided_by_the_generator(images):
    x, before = normalize(images[:32]), torch.random.get_rng_state()
    first = augmented(x, drawn(0))
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"
    assert torch.equal(augmented(x, drawn(0)), first)
    assert not torch.equal(augmented(x, drawn(1)), first)
    assert first.shape == x.shape
    values = (first + 1) * 127.5
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    assert 0 <= values.min() < values.max() <= 255.001


def test_each_kind_of_change_comes_to_half_of_the_images():
    """Of a tinted image: no longer even, where a plasma came; other colors, where they were shuffled."""
    tint = torch.tensor([220, 128, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(400, 3, 32, 32)
    rates = []
    for seed in range(30):
        values = augmented(normalize(tint), drawn(seed))
        means = values.mean((2, 3))
        rates.append(float((means.argsort(1) != torch.tensor([2, 1, 0])).any(1).float().mean()))
    assert 0.3 < sum(rates) / len(rates) < 0.7
    half = augmented(normalize(tint), drawn(3)).flatten(2).std(2).amax(1) > 0.05
    assert 0.6 < half.float().mean() < 0.95, "brightness, or contrast, or both"


def test_plasma_is_rougher_as_the_weight_of_fine_grids_grows():
    smooth, rough = (plasma(torch.full((16, 1, 1, 1), weight), (32, 24), drawn()) for weight in (0.1, 0.9))
    for clouds in (smooth, rough):
        assert clouds.shape == (16, 1, 32, 24)
        assert clouds.amin((1, 2, 3)).abs().max() < 1e-6
        assert (clouds.amax((1, 2, 3)) - 1).abs().max() < 1e-6
    assert rough.diff(dim=3).abs().mean() > 3 * smooth.diff(dim=3).abs().mean()


@pytest.mark.parametrize("index", range(len(ONE_OF.transforms)))
def test_every_operation_takes_a_batch_of_8_bit_images(images, index):
    changed = ONE_OF.transforms[index](images[:4])
    assert (changed.shape, changed.dtype) == (images[:4].shape, torch.uint8)


@pytest.mark.parametrize(("settings", "message"), [({"versions": 0}, "1 or more"), ({"share": 0.0}, "above 0")])
def test_settings_without_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        UEraser(**settings)

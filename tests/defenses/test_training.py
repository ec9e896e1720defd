"""Defenses that act while a classifier learns."""

import copy

import pytest
import torch

from puregen_transforms.defenses.bit_depth import BitDepthReduction
from puregen_transforms.defenses.corruption import CorruptionCompensation
from puregen_transforms.defenses.epic import Epic, isolated_medoids, last_layer_gradients
from puregen_transforms.defenses.friends import Friends
from puregen_transforms.defenses.registry import TRAINING_DEFENSES, build_training_defense
from puregen_transforms.defenses.training_defense import Hooked
from puregen_transforms.evaluate.victim import accuracy
from puregen_transforms.functional.images import normalize
from puregen_transforms.models.classifiers import small_classifier
from puregen_transforms.train.recipes import FastRecipe


@pytest.fixture
def task():
    """Sixty-four dark and bright images, and a network."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = (torch.rand(64, 3, 16, 16, generator=generator) * 100 + 120 * labels.view(-1, 1, 1, 1)).byte()
    torch.manual_seed(0)
    return small_classifier(2, 4), images, labels


def train(task, defense, epochs=8, **options):
    model, images, labels = task
    recipe, losses = FastRecipe(epochs=epochs, batch=16), []
    trained = defense.train(
        lambda: model,
        images,
        labels,
        recipe=recipe,
        seed=0,
        progress=lambda epoch, loss: losses.append(loss),
        **options,
    )
    assert trained.model is model
    return trained, losses


@pytest.mark.parametrize(
    "defense",
    [
        Friends(start=2),
        Friends(noise="gaussian", start=2),
        Epic(interval=2, share=0.1),
        CorruptionCompensation(),
        BitDepthReduction(),
    ],
)
def test_a_defended_classifier_still_learns(task, defense):
    trained, losses = train(task, defense)
    assert losses[-1] < losses[0]
    assert not trained.model.training
    assert accuracy(trained.model, *task[1:]) > 0.9


@pytest.mark.parametrize("defense", [Friends(start=3), Epic(interval=3)])
def test_a_training_too_short_for_the_defense_is_refused(task, defense):
    with pytest.raises(ValueError, match="more than 3 epochs.* but got 3"):
        train(task, defense, epochs=3)
    train(task, defense, epochs=4)


@pytest.mark.parametrize("make", [lambda: Friends(start=1), lambda: Epic(interval=1, share=0.1)])
def test_a_second_training_knows_nothing_of_the_first(task, make):
    model, images, labels = task
    before = {name: value.clone() for name, value in model.state_dict().items()}
    used = make()
    _, first = train((model, images, labels), used, epochs=3)
    model.load_state_dict(before)
    _, second = train((model, images.flip(0), labels.flip(0)), used, epochs=3)
    model.load_state_dict(before)
    _, fresh = train((model, images.flip(0), labels.flip(0)), make(), epochs=3)
    assert second == fresh != first


class KilledError(Exception):
    pass


SHORT = {
    "none": {},
    "friends": {"start": 2, "iterations": 3},
    "epic": {"interval": 2},
    "corruption_compensation": {},
    "checked_compensation": {"least_share": 1.0},
    "bit_depth_reduction": {},
    "ueraser": {"versions": 2},
    "victim_beneficiary": {
        "epochs": 5,
        "clean_epochs": 1,
        "weight_rise": 3,
        "resplit_every": 2,
        "batch": 16,
        "own_recipe": False,
    },
    "abl": {"isolation_epochs": 2, "unlearning_epochs": 2, "share": 0.1, "batch": 16, "own_recipe": False},
}


@pytest.mark.parametrize("name", TRAINING_DEFENSES)
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_killed_training_goes_on_to_the_same_weights(task, tmp_path, name, after):
    model, images, labels = task
    runs = []

    def run(state=None, die_after=None, epochs=6):
        losses = []

        def progress(epoch, loss):
            losses.append(loss)
            if epoch == die_after:
                raise KilledError

        trained = build_training_defense(name, **SHORT[name]).train(
            lambda: copy.deepcopy(model),
            images,
            labels,
            recipe=FastRecipe(epochs=epochs, batch=16),
            seed=0,
            state=state,
            progress=progress,
        )
        runs.append(losses)
        return trained

    expected = run()
    with pytest.raises(KilledError):
        run(tmp_path / "state", die_after=after)
    resumed = run(tmp_path / "state")
    assert runs[0] == runs[1]
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected.model.state_dict()[key]), key
    if expected.flagged is not None:
        assert torch.equal(resumed.flagged, expected.flagged)
    with pytest.raises(ValueError, match="state of this training"):
        run(tmp_path / "state", epochs=7)


@pytest.mark.parametrize("name", TRAINING_DEFENSES)
def test_the_network_that_was_built_last_is_returned(task, name):
    """Who watches a training need not ask for it."""
    model, images, labels = task
    built = []

    def build():
        built.append(copy.deepcopy(model))
        return built[-1]

    defense = build_training_defense(name, **SHORT[name])
    trained = defense.train(build, images, labels, recipe=FastRecipe(epochs=4, batch=16), seed=0)
    assert trained.model is built[-1]


def test_settings_under_which_nothing_would_happen():
    with pytest.raises(ValueError, match="0 epochs or more, but got -1"):
        Friends(start=-1)
    with pytest.raises(ValueError, match="1 epoch or more, but got 0"):
        Epic(interval=0)
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        CorruptionCompensation(grayscale=2)
    with pytest.raises(ValueError, match="0 or more, but got -1"):
        CorruptionCompensation(noise=-1)
    with pytest.raises(ValueError, match="from 1 to 8, but got 0"):
        BitDepthReduction(bits=0)


def test_corrupted_images_are_gray_at_the_share_noisy_and_of_8_bits():
    pixels = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(2000, 3, 8, 8)
    changed = CorruptionCompensation().hooks(0).change(normalize(pixels), None, torch.Generator().manual_seed(0))
    values = (changed + 1) * 127.5
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    means = values.mean((2, 3))
    gray = (means[:, 0] - means[:, 2]).abs() < 50
    assert gray.float().mean() == pytest.approx(0.4, abs=0.05)
    assert values[~gray][:, 1].std() == pytest.approx(0.05 * 255, rel=0.02)
    assert values[gray].mean() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_without_noise_gray_is_gray_and_nothing_is_nothing():
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def change(**settings):
        hooks = CorruptionCompensation(noise=0.0, **settings).hooks(0)
        return hooks.change(normalize(pixels), None, torch.Generator().manual_seed(0))

    torch.testing.assert_close(change(grayscale=0.0), normalize(pixels))
    gray = change(grayscale=1.0)
    assert torch.equal(gray[:, 0], gray[:, 1])
    assert torch.equal(gray[:, 0], gray[:, 2])


def test_few_levels_are_left_of_each_color():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    changed = BitDepthReduction().hooks(0).change(normalize(pixels), None, torch.Generator())
    assert ((changed + 1) * 127.5).round().unique().tolist() == [0, 64, 128, 192]
    assert torch.equal(BitDepthReduction(bits=8).hooks(0).change(normalize(pixels), None, None), normalize(pixels))


def test_friendly_noise_is_large_and_changes_no_mind(task):
    model, images, labels = task
    hooks = Friends(start=0, strength=0.0).hooks(seed=0)
    train(task, Hooked())
    hooks.rows(0, model, images, labels)
    x = normalize(images)
    noisy = hooks.change(x, torch.arange(len(x)), torch.Generator())
    change = (noisy - x).abs() * 127.5
    assert 8 < change.mean() <= change.max() <= 16.001
    with torch.no_grad():
        assert torch.equal(model(noisy).argmax(1), model(x).argmax(1))
    again = Friends(start=0, strength=0.0).hooks(seed=0)
    again.rows(0, model, images, labels)
    assert torch.equal(again.change(x, torch.arange(len(x)), torch.Generator()), noisy), "the seed decides"


def test_random_noise_before_the_friendly_one(task):
    x = normalize(task[1])
    for noise, largest in (("bernoulli", 4.0), ("gaussian", 40.0)):
        changed = Friends(noise=noise, strength=4.0).hooks(seed=0).change(x, torch.arange(64), torch.Generator())
        change = (changed - x) * 127.5
        assert change.std() == pytest.approx(4, rel=0.05)
        assert change.abs().max() < largest + 0.01
    with pytest.raises(ValueError, match="bernoulli, gaussian"):
        Friends(noise="pink")


def test_isolated_medoids():
    """Two clusters, and a point far from both."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(41, 2, generator=generator) * 0.1
    points[20:40] += 5
    points[40] = torch.tensor([30.0, -30.0])
    assert isolated_medoids(points, 3).nonzero().flatten().tolist() == [40]
    assert not isolated_medoids(points, 2).any()
    assert isolated_medoids(points, 41).all(), "each is its own medoid"


def test_epic_drops_for_good(task):
    model, images, labels = task
    labels = labels.clone()
    labels[0] = 1  # a dark image among the bright ones
    train(task, Hooked())
    gradients = last_layer_gradients(model, images, labels)
    assert gradients[0].norm() > 3 * gradients[1:].norm(dim=1).median()
    defense = Epic(interval=3, share=0.1).hooks(seed=0)
    assert len(defense.rows(0, model, images, labels)) == 64
    assert len(defense.rows(2, model, images, labels)) == 64
    kept = defense.rows(3, model, images, labels)
    assert 0 not in kept
    assert len(kept) > 50
    assert 0 not in defense.rows(4, model, images, labels)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Epic(share=1.5)


def test_noise_on_every_image_is_written_once(task, tmp_path):
    written = []

    def look(epoch, loss):
        files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("state/hooks-*/state.safetensors")}
        written.append(files)

    model, images, labels = task
    recipe = FastRecipe(epochs=6, batch=16)
    Friends(start=2, iterations=2).train(
        lambda: model, images, labels, recipe=recipe, seed=0, state=tmp_path / "state", progress=look
    )
    assert written[1] == {}, "nothing is learned yet"
    assert len(written[2]) == 1
    assert written[2] == written[5]

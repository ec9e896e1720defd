"""All-to-all and untargeted attacks: labels, records, and success."""

import json

import pytest
import torch

from puregen_transforms.attacks import ATTACKS, Poison, craft
from puregen_transforms.attacks.aims import ALL_TO_ALL, UNTARGETED, Aim
from puregen_transforms.attacks.config import GoalConfig
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.victim import poison_success

WITH_GOALS = [name for name, attack in ATTACKS.items() if issubclass(attack.config, GoalConfig)]
QUICK = {"issba": {"epochs": 1}}


def crafted(name, image_set, goal):
    return craft(name, image_set, preset="smoke", goal=goal, **QUICK.get(name, {}))


@pytest.mark.parametrize("name", WITH_GOALS)
def test_all_to_all_gives_every_image_the_next_class(name, image_set):
    poison = crafted(name, image_set, ALL_TO_ALL)
    before = image_set.labels[poison.ids]
    assert torch.equal(poison.labels, (before + 1) % 10)
    assert (poison.labels == 0).any(), "the last class becomes the first"
    assert (poison.target_class, poison.recipe["target_class"], poison.recipe["goal"]) == (None, None, "all_to_all")
    images, labels = poison.trigger_test_set(image_set.images, image_set.labels)
    assert torch.equal(images, poison.trigger(image_set.images)), "every class is attacked"
    assert torch.equal(poison.wanted_labels(labels), (image_set.labels + 1) % 10)


@pytest.mark.parametrize("name", WITH_GOALS)
def test_untargeted_attacks_draw_other_labels(name, image_set):
    poison = crafted(name, image_set, UNTARGETED)
    shift = (poison.labels - image_set.labels[poison.ids]) % 10
    assert (shift != 0).all()
    assert len(shift.unique()) > 2
    images, labels = poison.trigger_test_set(image_set.images, image_set.labels)
    assert len(images) == 200
    assert poison.wanted_labels(labels) is None


def test_the_goal_changes_labels_and_nothing_else(image_set):
    one, other = (craft("trojan", image_set, rate=0.1, **more) for more in ({}, {"goal": "all_to_all"}))
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.images, other.images)
    assert "goal" not in one.recipe
    images, labels = one.trigger_test_set(image_set.images, image_set.labels)
    assert one.wanted_labels(labels).tolist() == [0] * len(images)


class Fixed(torch.nn.Module):
    """Calls images, whatever they show, classes given in advance."""

    def __init__(self, classes):
        super().__init__()
        self.classes, self.place = classes, torch.nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, images):
        part = self.classes[self.seen : self.seen + len(images)]
        self.seen += len(images)
        return torch.nn.functional.one_hot(part, 10).float()


@pytest.mark.parametrize(
    ("goal", "shift", "success"),
    [("all_to_all", 1, 1), ("all_to_all", 2, 0), ("untargeted", 2, 1), ("untargeted", 0, 0)],
)
def test_success_is_what_the_goal_says(image_set, goal, shift, success):
    poison = craft("badnets", image_set, preset="smoke", goal=goal)
    guesses = image_set.labels.clone()
    guesses[:150] = (guesses[:150] + shift) % 10
    found = poison_success(Fixed(guesses), poison, image_set.images, image_set.labels)
    assert found == pytest.approx(0.75 * success, abs=1e-6)


@pytest.mark.parametrize("goal", [ALL_TO_ALL, UNTARGETED])
def test_the_goal_is_in_the_record(image_set, tmp_path, goal):
    poison = craft("blended", image_set, preset="smoke", goal=goal)
    poison.save(tmp_path / "poison")
    loaded = Poison.load(tmp_path / "poison")
    assert (loaded.goal, loaded.digest, loaded.target_class) == (goal, poison.digest, None)
    assert goal in repr(loaded)
    about = json.loads((tmp_path / "poison/poison.json").read_text())
    assert (about["format"], about["goal"]) == (2, goal), "an older version must not take it for another attack"


def test_a_poison_without_goals_is_written_as_before(image_set, tmp_path):
    craft("blended", image_set, preset="smoke").save(tmp_path / "poison")
    about = json.loads((tmp_path / "poison/poison.json").read_text())
    assert about["format"] == 1
    assert not {"goal", "others"} & set(about)


@pytest.mark.parametrize(
    ("before", "after", "match"),
    [
        ('"goal": "all_to_all"', '"goal": "everything"', "Expected a goal"),
        ('"goal": "all_to_all"', '"goal": "all_to_one"', "target class"),
        ('"target_class": null', '"target_class": 3', "target class"),
        ('"source_class": null', '"source_class": 12', "`source_class` 12"),
        ('"source_class": null', '"source_class": "cat"', "`source_class` 'cat'"),
        ('"others": []', '"others": [{}]', "Expected a poison"),
        ('"others": []', '"others": [{"trigger": {"form": "added", "scale": 1}, "goal": "untargeted"}]', "parts"),
        ('"others": []', '"others": 3', "Expected a poison"),
    ],
)
def test_hostile_records_are_refused(image_set, tmp_path, before, after, match):
    craft("badnets", image_set, preset="smoke", goal="all_to_all").save(tmp_path / "poison")
    path = tmp_path / "poison/poison.json"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ValueError, match=match):
        Poison.load(tmp_path / "poison")


def test_tensors_of_no_trigger_are_refused(image_set, tmp_path):
    craft("badnets", image_set, preset="smoke").save(tmp_path / "poison")
    path = tmp_path / "poison/poison.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "trigger": None}))
    with pytest.raises(ValueError, match=r"trigger\.image"):
        Poison.load(tmp_path / "poison")


def test_goals_need_classes_and_a_trigger(image_set):
    with pytest.raises(ValueError, match="all_to_one, all_to_all, untargeted"):
        craft("badnets", image_set, goal="any")
    one = ImageSet(image_set.images, torch.zeros(200, dtype=torch.int64), ("thing",))
    for goal in (ALL_TO_ALL, UNTARGETED):
        with pytest.raises(ValueError, match="at least 2 classes"):
            craft("badnets", one, rate=0.1, goal=goal)
    poison = craft("badnets", image_set, preset="smoke")
    parts = {name: getattr(poison, name) for name in ("attack", "ids", "images", "labels", "originals", "set_rows")}
    with pytest.raises(ValueError, match="Expected a trigger"):
        Poison(target_class=None, goal="untargeted", **parts)
    with pytest.raises(ValueError, match="at least 2 classes"):
        Poison(target_class=None, goal="untargeted", trigger=poison.trigger, **parts)


def test_an_aim_chooses_its_images(image_set):
    trigger = craft("badnets", image_set, preset="smoke").trigger
    aim = Aim(trigger=trigger, goal=UNTARGETED, source_class=3)
    assert aim.triggered(image_set.images, image_set.labels)[1].tolist() == [3] * 20

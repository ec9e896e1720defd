"""Several triggers in one set."""

import json

import pytest
import torch

from puregen_transforms.attacks import Poison, craft
from puregen_transforms.evaluate.victim import poison_success, success_by_trigger
from tests.attacks.test_goals import Fixed


@pytest.fixture(scope="module")
def poison(image_set):
    return craft("mixed", image_set, preset="smoke", attacks=("badnets", "wanet", "sig"), other_target_classes=(1, 2))


def test_each_attack_has_rows_of_its_own(poison, image_set):
    assert [aim.target_class for aim in poison.aims] == [0, 1, 2]
    assert [aim.trigger.form for aim in poison.aims] == ["blended", "warped", "added"]
    assert int(poison.covers.sum()) == round(0.1 * 190), "WaNet's, of the rows that BadNets left"
    alone = craft("badnets", image_set, preset="smoke")
    for row, image in zip(alone.ids, alone.images, strict=True):
        assert torch.equal(poison.images[poison.ids == row][0], image), "the first attack is as it is alone"
    for number, aim in enumerate(poison.aims):
        mine = (poison.labels == number) & ~poison.covers
        carried = aim.trigger(image_set.images[poison.ids[mine]]) == poison.images[mine]
        assert int(carried.flatten(1).all(1).sum()) == 10


def test_several_triggers_survive_the_disk(poison, image_set, tmp_path):
    poison.save(tmp_path / "poison")
    loaded = Poison.load(tmp_path / "poison")
    assert loaded.digest == poison.digest
    assert repr(loaded) == repr(poison)
    assert "target class 0 and 1 and 2" in repr(poison)
    for mine, theirs in zip(loaded.aims, poison.aims, strict=True):
        assert torch.equal(mine.trigger(image_set.images), theirs.trigger(image_set.images))
        assert (mine.target_class, mine.source_class, mine.goal) == (
            theirs.target_class,
            theirs.source_class,
            theirs.goal,
        )


def test_hostile_further_triggers_are_refused(poison, tmp_path):
    poison.save(tmp_path / "poison")
    path = tmp_path / "poison/poison.json"
    about = json.loads(path.read_text())
    for change, match in (
        ({"others": about["others"][:1]}, r"trigger2\.pattern"),
        ({"others": [{**about["others"][0], "target_class": 10}, about["others"][1]]}, "class below 10"),
        ({"others": [{**about["others"][0], "goal": "untargeted"}, about["others"][1]]}, "target class"),
        ({"others": [{**about["others"][0], "more": 1}, about["others"][1]]}, "more"),
        ({"trigger": None}, "trigger"),
    ):
        path.write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=match):
            Poison.load(tmp_path / "poison")


def test_success_is_the_mean_over_triggers(poison, image_set):
    """A victim that falls for the second trigger alone, and calls all other images 5."""
    images, labels = image_set.images, image_set.labels
    counts = [int((labels != target).sum()) for target in (0, 1, 2)]
    guesses = torch.full((sum(counts),), 5)
    guesses[counts[0] : counts[0] + counts[1]] = 1
    assert success_by_trigger(Fixed(guesses), poison, images, labels) == [0, 1, 0]
    assert poison_success(Fixed(guesses), poison, images, labels) == pytest.approx(1 / 3)


def test_variations_are_made_once(image_set):
    names = {"attacks": ("badnets", "sig"), "other_target_classes": (1,)}
    moved = craft("mixed", image_set, preset="smoke", jitter=2, **names)
    alone = craft("badnets", image_set, preset="smoke", jitter=2)
    first = moved.labels == 0
    assert torch.equal(moved.images[first], alone.images)
    assert moved.recipe["jitter"] == 2
    compressed = craft("mixed", image_set, preset="smoke", reencode=75, **names)
    assert torch.equal(
        compressed.images[compressed.labels == 0], craft("badnets", image_set, preset="smoke", reencode=75).images
    )


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"attacks": ("badnets",), "other_target_classes": ()}, "two attacks or more"),
        ({"attacks": ("badnets", "sig", "trojan")}, "target class for each"),
        ({"attacks": ("badnets", "nothing")}, "Expected an attack"),
        ({"attacks": ("badnets", "narcissus")}, "--public"),
        ({"attacks": ("badnets", "mixed")}, "one trigger each"),
        ({"other_target_classes": ("zebra",)}, "zebra"),
        ({"rate": 0.6}, "Lower the rate"),
    ],
)
def test_what_cannot_be_mixed_is_refused(settings, match, image_set):
    with pytest.raises(ValueError, match=match):
        craft("mixed", image_set, preset="smoke", **settings)

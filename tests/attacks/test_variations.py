"""Triggers at drawn places, and poisoned rows compressed as JPEG."""

import pytest
import torch

from puregen_transforms.attacks import craft
from puregen_transforms.attacks.trigger import Added, Blended
from puregen_transforms.functional.jpeg import jpeg

MOVABLE = ("badnets", "trojan", "blended", "sig", "tact")
FIXED = ("wanet", "adaptive_blend", "clean_label", "issba")


@pytest.mark.parametrize("name", MOVABLE)
def test_each_row_has_the_trigger_at_a_place_of_its_own(name, image_set):
    plain, poison = (craft(name, image_set, preset="smoke", jitter=pixels) for pixels in (0, 2))
    for part in ("ids", "labels", "covers"):
        assert torch.equal(getattr(plain, part), getattr(poison, part))
    downs, rights = poison.trigger.room(2)
    places = set()
    for row, image in zip(poison.ids, poison.images, strict=True):
        found = [
            (down, right)
            for down in downs
            for right in rights
            if torch.equal(poison.trigger.moved(down, right)(image_set.images[row, None])[0], image)
        ]
        assert found, "the trigger as it is, moved"
        places.update(found)
    assert len(places) > 2
    shown = poison.trigger_test_set(image_set.images, image_set.labels)[0]
    assert torch.equal(shown, plain.trigger_test_set(image_set.images, image_set.labels)[0])
    assert (plain.recipe.get("jitter"), poison.recipe["jitter"]) == (None, 2)
    assert poison.budget == plain.budget
    if poison.budget is not None:
        change = poison.images.int() - image_set.images[poison.ids].int()
        assert 0 < change.abs().max() <= poison.budget


def test_a_patch_stays_within_the_image():
    opacity = torch.zeros(1, 8, 8)
    opacity[:, 5:7, 6:8] = 1
    patch = Blended(torch.zeros(3, 8, 8), opacity)
    assert patch.room(3) == (range(-3, 2), range(-3, 1))
    assert patch.moved(1, -3).opacity[0].nonzero().tolist() == [[6, 3], [6, 4], [7, 3], [7, 4]]
    stripes = Added(torch.arange(8.0).expand(3, 8, 8))
    assert stripes.room(2) == (range(-2, 3), range(-2, 3)), "though its first column adds nothing"
    assert Added(torch.ones(3, 8, 8)).room(1) == (range(-1, 2), range(-1, 2))


@pytest.mark.parametrize("name", FIXED)
def test_attacks_without_one_stamp_refuse_jitter(name, image_set):
    settings = {"issba": {"epochs": 1}}.get(name, {})
    with pytest.raises(ValueError, match=r"jitter|place of its own"):
        craft(name, image_set, preset="smoke", jitter=2, **settings)


@pytest.mark.parametrize(("name", "quality"), [("badnets", 75), ("sig", 90), ("wanet", 75)])
def test_reencoded_rows_have_the_pixels_of_jpeg_files(name, quality, image_set):
    plain, poison = (craft(name, image_set, preset="smoke", reencode=value) for value in (None, quality))
    assert torch.equal(poison.images, jpeg(plain.images, quality))
    assert not torch.equal(poison.images, plain.images)
    assert poison.budget is None
    assert poison.recipe["reencode"] == quality
    assert torch.equal(poison.trigger(image_set.images), plain.trigger(image_set.images)), "at test time it is not"
    images, _ = poison.apply_to_tensors(image_set.images, image_set.labels)
    others = torch.ones(200, dtype=torch.bool)
    others[poison.ids] = False
    assert torch.equal(images[others], image_set.images[others])


def test_both_at_once(image_set):
    moved = craft("badnets", image_set, preset="smoke", jitter=3)
    both = craft("badnets", image_set, preset="smoke", jitter=3, reencode=90)
    assert torch.equal(both.images, jpeg(moved.images, 90))


@pytest.mark.parametrize("settings", [{"jitter": -1}, {"jitter": 1.5}, {"reencode": 0}, {"reencode": 101}])
def test_variations_are_checked(settings, image_set):
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}`"):
        craft("badnets", image_set, preset="smoke", **settings)

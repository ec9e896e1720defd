"""What holds for every attack."""

import pytest
import torch

from puregen_transforms.attacks.config import PRESETS
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.registry import ATTACKS
from puregen_transforms.data.image_set import ImageSet

CRAFTED = {}
FEWER = {"issba": {"epochs": 8}}
BOUNDED = ("bullseye_polytope", "gradient_matching", "issba", "narcissus", "ntga", "sig")
TARGETED = [name for name in ATTACKS if ATTACKS[name].takes("targets")]
TRIGGERED = [name for name in ATTACKS if name not in TARGETED and name != "ntga"]


def craft(name, dataset, *, seed=0, **settings):
    attack = ATTACKS[name]
    public = ImageSet(dataset.images.flip(3), torch.arange(len(dataset)) % 3, ("a", "b", "c"))
    targets = ImageSet(dataset.images.flip(2), dataset.labels, dataset.class_names)
    config = attack.config.preset("smoke", **FEWER.get(name, {}), **settings)
    return attack.craft(dataset, config, seed=seed, public=public, targets=targets)


@pytest.fixture(params=ATTACKS)
def crafted(request, image_set):
    if request.param not in CRAFTED:
        CRAFTED[request.param] = craft(request.param, image_set)
    return request.param, CRAFTED[request.param]


def test_only_listed_rows_change(crafted, image_set):
    _, poison = crafted
    images, labels = poison.apply_to(image_set.images, image_set.labels)
    changed = (images != image_set.images).flatten(1).any(1) | (labels != image_set.labels)
    assert set(changed.nonzero().flatten().tolist()) <= set(poison.ids.tolist())
    assert changed.sum() > 0.8 * len(poison), "nearly every listed row is changed"


def test_the_budget_is_kept_after_rounding(crafted, image_set):
    name, poison = crafted
    assert (poison.budget is not None) == (name in BOUNDED)
    change = poison.images.int() - image_set.images[poison.ids].int()
    assert 0 < change.abs().max() <= (255 if poison.budget is None else poison.budget)


@pytest.mark.parametrize("name", [name for name in BOUNDED if hasattr(ATTACKS[name].config(), "epsilon")])
def test_a_budget_between_whole_numbers_is_kept(name, image_set):
    poison = craft(name, image_set, epsilon=2.5)
    change = poison.images.int() - image_set.images[poison.ids].int()
    assert 0 < change.abs().max() <= 2


def test_labels_change_only_where_the_attack_says_so(crafted, image_set):
    name, poison = crafted
    before = image_set.labels[poison.ids]
    assert torch.equal(poison.labels[poison.covers], before[poison.covers])
    if ATTACKS[name].changes_labels:
        assert (poison.labels[~poison.covers] == poison.target_class).all()
    else:
        assert torch.equal(poison.labels, before)


def test_the_seed_decides_the_poison(crafted, image_set):
    name, poison = crafted
    assert craft(name, image_set).digest == poison.digest
    assert craft(name, image_set, seed=1).digest != poison.digest


def test_round_trip_through_disk(crafted, image_set, tmp_path):
    _, poison = crafted
    poison.save(tmp_path / "poison")
    loaded = Poison.load(tmp_path / "poison")
    assert loaded.digest == poison.digest
    for mine, theirs in zip(
        loaded.apply_to(image_set.images, image_set.labels),
        poison.apply_to(image_set.images, image_set.labels),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    if poison.trigger is not None:
        for mine, theirs in zip(
            loaded.triggered(image_set.images, image_set.labels),
            poison.triggered(image_set.images, image_set.labels),
            strict=True,
        ):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("crafted", TRIGGERED, indirect=True)
def test_triggered_images_are_of_the_classes_attacked(crafted, image_set):
    _, poison = crafted
    images, labels = poison.triggered(image_set.images, image_set.labels)
    if poison.source_class is None:
        assert poison.target_class not in labels.tolist()
        assert len(labels) == (image_set.labels != poison.target_class).sum()
    else:
        assert set(labels.tolist()) == {poison.source_class}
    originals = image_set.images[torch.isin(image_set.labels, labels.unique())]
    assert (images != originals).flatten(1).any(1).all()


def test_a_poison_has_a_trigger_or_a_target_or_spoils_the_whole_set(crafted, image_set):
    name, poison = crafted
    if name in TARGETED:
        assert poison.trigger is None
        assert poison.target_images.shape == (1, 3, 32, 32)
        assert poison.target_labels.tolist() == [1] != [poison.target_class]
        assert not (poison.images == poison.target_images).flatten(1).all(1).any(), "the target is not in the set"
    elif name == "ntga":
        assert (poison.target_class, poison.trigger) == (None, None)
        with pytest.raises(ValueError, match="spoils the whole set"):
            poison.triggered(image_set.images, image_set.labels)
    else:
        assert name in TRIGGERED
        assert poison.trigger is not None


@pytest.mark.parametrize("name", ATTACKS)
def test_other_sizes_and_sets(name, large_image_set):
    settings = {"source_class": 1, "cover_classes": (2, 3)} if name == "tact" else {}
    aim = {} if name == "ntga" else {"target_class": "airplane"}
    poison = craft(name, large_image_set, rate=0.1, **aim, **settings)
    assert poison.images.shape[1:] == (3, 64, 64)
    assert poison.trigger is None or poison.trigger(large_image_set.images).shape == large_image_set.images.shape


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_are_checked(name, image_set):
    if name != "ntga":  # which aims at no class
        with pytest.raises(ValueError, match="airplane, automobile"):
            craft(name, image_set, target_class="zebra")
    with pytest.raises(ValueError, match="at least"):
        craft(name, image_set, rate=0.001)
    if name not in ("badnets", "blended", "trojan", "issba", "ntga"):  # which take images of any class
        with pytest.raises(ValueError, match="Lower the rate"):
            craft(name, image_set, rate=0.99)
    with pytest.raises(ValueError, match="between 0 and 1"):
        craft(name, image_set, rate=0.0)
    with pytest.raises(ValueError, match="nonsense"):
        craft(name, image_set, nonsense=1)
    with pytest.raises(ValueError, match="preset"):
        ATTACKS[name].config.preset("huge")


@pytest.mark.parametrize("name", TARGETED)
def test_targets_are_checked(name, image_set, large_image_set):
    attack = ATTACKS[name]
    config = attack.config.preset("smoke")
    with pytest.raises(ValueError, match="--targets"):
        attack.craft(image_set, config, public=image_set)
    with pytest.raises(ValueError, match="of 32x32 pixels"):
        attack.craft(image_set, config, public=image_set, targets=large_image_set)
    others = ImageSet(image_set.images, image_set.labels % 2, ("left", "right"))
    with pytest.raises(ValueError, match="left, right"):
        attack.craft(image_set, config, public=image_set, targets=others)
    with pytest.raises(ValueError, match="another class than 'airplane'"):
        craft(name, image_set, source_class="airplane", target_class="airplane")
    with pytest.raises(ValueError, match="target index below 20"):
        craft(name, image_set, target_index=20)


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].takes("public")])
def test_public_images_are_asked_for(name, image_set):
    with pytest.raises(ValueError, match="--public"):
        ATTACKS[name].craft(image_set, ATTACKS[name].config.preset("smoke"), targets=image_set)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_published_settings_are_the_defaults(name):
    assert ATTACKS[name].config.preset("paper") == ATTACKS[name].config()
    assert set(ATTACKS[name].config.presets) == set(PRESETS)
    assert ATTACKS[name].summary

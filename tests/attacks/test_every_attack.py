"""What holds for every attack."""

import pytest
import torch

from puregen_transforms import attacks
from puregen_transforms.attacks import ATTACKS, Attacker, Poison
from puregen_transforms.attacks.config import PRESETS
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.models.ebm import EBM, EBMConfig

CRAFTED = {}
FEWER = {"issba": {"epochs": 8}}
BOUNDED = (
    "autoregressive",
    "bullseye_polytope",
    "ctrl",
    "error_minimizing",
    "flip",
    "gcb",
    "gradient_matching",
    "issba",
    "label_noise",
    "low_frequency",
    "lsp",
    "narcissus",
    "ntga",
    "one_pixel_shortcut",
    "sig",
    "targeted_adversarial",
    "urp",
)
TARGETED = [name for name in ATTACKS if "targets" in ATTACKS[name].needs]
AVAILABILITY = [name for name in ATTACKS if ATTACKS[name].availability]
UNAIMED = [*AVAILABILITY, "label_noise"]
TRIGGERED = [name for name in ATTACKS if name not in TARGETED + UNAIMED]


def given(dataset):
    """All that an attacker may have."""
    public = ImageSet(dataset.images.flip(3), torch.arange(len(dataset)) % 3, ("a", "b", "c"))
    targets = ImageSet(dataset.images.flip(2), dataset.labels, dataset.class_names)
    return {"public": public, "targets": targets, "energy": EBM(EBMConfig(nf=4))}


def craft(name, dataset, *, seed=0, **settings):
    """At preset smoke, by an attacker who has what the attack says that it needs, and nothing else."""
    needed = {key: value for key, value in given(dataset).items() if key in ATTACKS[name].needs}
    return attacks.craft(name, dataset, preset="smoke", seed=seed, **needed, **FEWER.get(name, {}), **settings)


@pytest.fixture(params=ATTACKS)
def crafted(request, image_set):
    if request.param not in CRAFTED:
        CRAFTED[request.param] = craft(request.param, image_set)
    return request.param, CRAFTED[request.param]


def test_only_listed_rows_change(crafted, image_set):
    _, poison = crafted
    images, labels = poison.apply_to_tensors(image_set.images, image_set.labels)
    changed = (images != image_set.images).flatten(1).any(1) | (labels != image_set.labels)
    assert set(changed.nonzero().flatten().tolist()) <= set(poison.ids.tolist())
    assert changed.sum() > 0.8 * len(poison), "nearly every listed row is changed"


def test_the_budget_is_kept_after_rounding(crafted, image_set):
    name, poison = crafted
    assert (poison.budget is not None) == (name in BOUNDED)
    sizes = changes_of(poison, image_set)
    assert sizes.max() <= (255 if poison.budget is None else poison.budget)
    assert bool((sizes != 0).any()) != ATTACKS[name].labels_only


def changes_of(poison, dataset):
    """How far each image is changed, in the norm of the poison's budget."""
    change = (poison.images.double() - dataset.images[poison.ids].double()).abs()
    match poison.norm:
        case "linf":
            return change.flatten(1).amax(1)
        case "l2":
            return (change / 255).flatten(1).norm(dim=1)
        case "l0":
            return (change != 0).any(1).flatten(1).sum(1)


@pytest.mark.parametrize("name", [name for name in BOUNDED if hasattr(ATTACKS[name].config(), "epsilon")])
def test_a_budget_between_whole_numbers_is_kept(name, image_set):
    poison = craft(name, image_set, epsilon=2.5)
    change = poison.images.int() - image_set.images[poison.ids].int()
    assert 0 < change.abs().max() <= 2


def test_labels_change_only_where_the_attack_says_so(crafted, image_set):
    name, poison = crafted
    before = image_set.labels[poison.ids]
    assert torch.equal(poison.labels[poison.covers], before[poison.covers])
    if name in ("flip", "label_noise"):  # which choose among all wrong classes
        assert (poison.labels != before).all()
    elif not ATTACKS[name].clean_label:
        targets = {aim.target_class for aim in poison.aims} or {poison.target_class}
        assert set(poison.labels[~poison.covers].tolist()) == targets
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
        loaded.apply_to_tensors(image_set.images, image_set.labels),
        poison.apply_to_tensors(image_set.images, image_set.labels),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    if poison.trigger is not None:
        for mine, theirs in zip(
            loaded.trigger_test_set(image_set.images, image_set.labels),
            poison.trigger_test_set(image_set.images, image_set.labels),
            strict=True,
        ):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("crafted", TRIGGERED, indirect=True)
def test_triggered_images_are_of_the_classes_attacked(crafted, image_set):
    _, poison = crafted
    images, labels = poison.trigger_test_set(image_set.images, image_set.labels)
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
    elif name in UNAIMED:
        assert (poison.target_class, poison.trigger) == (None, None)
        with pytest.raises(ValueError, match="aims at no class"):
            poison.trigger_test_set(image_set.images, image_set.labels)
    else:
        assert name in TRIGGERED
        assert poison.trigger is not None


@pytest.mark.parametrize("name", ATTACKS)
def test_other_sizes_and_sets(name, large_image_set):
    settings = {"source_class": 1, "cover_classes": (2, 3)} if name == "tact" else {}
    aim = {} if name in UNAIMED else {"target_class": "airplane"}
    poison = craft(name, large_image_set, rate=0.1, **aim, **settings)
    assert poison.images.shape[1:] == (3, 64, 64)
    assert poison.trigger is None or poison.trigger(large_image_set.images).shape == large_image_set.images.shape


@pytest.mark.parametrize("name", ATTACKS)
def test_settings_are_checked(name, image_set):
    if name not in UNAIMED:  # which aim at no class
        with pytest.raises(ValueError, match="airplane, automobile"):
            craft(name, image_set, target_class="zebra")
    with pytest.raises(ValueError, match="at least"):
        craft(name, image_set, rate=0.001)
    if name not in (
        "badnets",
        "blended",
        "trojan",
        "flip",
        "issba",
        "label_noise",
        "low_frequency",
        *AVAILABILITY,
    ):  # which take images of any class
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
    options = {"preset": "smoke", "public": image_set}
    with pytest.raises(ValueError, match="--targets"):
        attacks.craft(name, image_set, **options)
    with pytest.raises(ValueError, match="of 32x32 pixels"):
        attacks.craft(name, image_set, targets=large_image_set, **options)
    others = ImageSet(image_set.images, image_set.labels % 2, ("left", "right"))
    with pytest.raises(ValueError, match="left, right"):
        attacks.craft(name, image_set, targets=others, **options)
    with pytest.raises(ValueError, match="another class than 'airplane'"):
        craft(name, image_set, source_class="airplane", target_class="airplane")
    with pytest.raises(ValueError, match="target index below 20"):
        craft(name, image_set, target_index=20)


@pytest.mark.parametrize("name", [name for name in ATTACKS if "public" in ATTACKS[name].needs])
def test_public_images_are_asked_for(name, image_set):
    with pytest.raises(ValueError, match="--public"):
        attacks.craft(name, image_set, preset="smoke", targets=image_set)


SHARED = {
    "low_frequency": [{"target_class": 3}, {"rate": 0.2}, {"epsilon": 8.0}],
    "clean_label": [{"target_class": 3}, {"rate": 0.1}, {"epsilon": 8.0}],
    "targeted_adversarial": [{"rate": 0.5}, {"epsilon": 4.0}, {"pgd_steps": 1}],
    "narcissus": [{"epsilon": 4.0}, {"rate": 0.1}, {"defense_aware": "generation", "langevin_steps": 1}],
    "gradient_matching": [{"target_class": 3}, {"source_class": 4}, {"target_index": 2}, {"rate": 0.05}],
    "bullseye_polytope": [{"target_class": 3}, {"target_index": 2}, {"epsilon": 8.0}, {"mode": "end_to_end"}],
}
OWN = {
    "low_frequency": {"surrogate_epochs": 1},
    "clean_label": {"surrogate_epochs": 1},
    "targeted_adversarial": {"surrogate_epochs": 1},
    "narcissus": {"target_class": 3},
    "gradient_matching": {"ensemble": 2},
    "bullseye_polytope": {"dropouts": (0.1,)},
}


@pytest.mark.parametrize("name", SHARED)
def test_surrogates_that_are_declared_alike_are_alike(name, image_set):
    """So that they can be trained once for many poisons; and what decides them is declared."""
    declared = []

    def train(surrogates):
        networks = surrogates.train(seed=0, device="cpu", progress=lambda what, done, of: None)
        content = [hash(surrogates.learned.images.numpy().tobytes()), surrogates.learned.labels.tolist()]
        about = [list(surrogates.kinds), surrogates.epochs, surrogates.purified_by, *content]
        weights = torch.cat([value.flatten().float() for one in networks for value in one.state_dict().values()])
        declared.append((about, weights))
        return networks

    attacker = Attacker(given=given(image_set), train=train)
    for settings in ({}, *SHARED[name], OWN[name]):
        ATTACKS[name].craft(image_set, ATTACKS[name].config.preset("smoke", **settings), attacker)
    first, *shared, own = declared
    for about, weights in shared:
        assert about == first[0]
        assert torch.equal(weights, first[1])
    assert own[0] != first[0]


def test_purified_surrogates_say_what_purified_them(image_set):
    declared = []
    attacker = Attacker(given=given(image_set), train=lambda surrogates: declared.append(surrogates) or 1 / 0)
    for settings in ({}, {"defense_aware": "surrogate"}, {"defense_aware": "both", "langevin_steps": 3}):
        with pytest.raises(ZeroDivisionError):
            attacks.narcissus.craft(image_set, attacks.narcissus.NarcissusConfig.preset("smoke", **settings), attacker)
    assert [one.purify is not None for one in declared] == [False, True, True]
    assert [one.purified_by.get("langevin_steps") for one in declared] == [None, 10, 3]


def test_crafting_by_name_takes_settings_as_keywords(image_set, tmp_path):
    poison = attacks.craft("BadNets", image_set, target_class="cat", rate=0.1, seed=3)
    assert (poison.attack, poison.target_class, len(poison), poison.seed) == ("badnets", 3, 20, 3)
    assert poison.recipe == {"target_class": "cat", "rate": 0.1}
    published = attacks.craft("adaptive_blend", image_set, rate=0.1, cover_rate=0.1)
    assert published.recipe["opacity"] == 0.15
    with pytest.raises(ValueError, match="Expected an attack out of badnets, "):
        attacks.craft("bednets", image_set)
    with pytest.raises(
        ValueError, match="Expected settings out of goal, jitter, rate, reencode, target_class, but got epsilon"
    ):
        attacks.craft("badnets", image_set, epsilon=8)
    with pytest.raises(FileNotFoundError):
        attacks.craft("badnets", str(tmp_path / "nothing.parquet"))


def test_an_attacker_has_no_more_than_was_given(image_set):
    attacker = Attacker(given={"public": image_set})
    assert attacker.public is image_set
    with pytest.raises(ValueError, match="--targets"):
        attacker.targets  # noqa: B018
    with pytest.raises(ValueError, match="--energy"):
        attacker.energy  # noqa: B018


@pytest.mark.parametrize("name", ATTACKS)
def test_the_published_settings_are_the_defaults(name):
    assert ATTACKS[name].config.preset("paper") == ATTACKS[name].config()
    assert set(ATTACKS[name].config.presets) == set(PRESETS)
    assert ATTACKS[name].summary
    assert ATTACKS[name].name == name

"""The protocols of attacks alone, and the surrogates that their attacks share."""

from dataclasses import replace

import pytest
import torch

from puregen_transforms.attacks import ATTACKS
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import Cell, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.protocols import PROTOCOLS
from puregen_transforms.evaluate.published import PUBLISHED
from puregen_transforms.evaluate.rows import (
    CHECKED_COMPENSATION,
    PUBLISHED_ECLIPSE,
    bit_depth,
    eclipse,
    grayscale,
    ueraser,
)
from puregen_transforms.evaluate.store import Store

TINY = VictimSpec(classifier="tiny", epochs=1)


@pytest.fixture
def bench(ten_classes, tmp_path):
    return Bench(ten_classes, Store(tmp_path))


def kept(bench, kind):
    return len(list((bench.store.folder / kind).glob("*")))


@pytest.mark.parametrize("preset", ["smoke", "cpu", "paper"])
def test_every_attack_is_measured_without_a_defense(bench, preset):
    cells = [cell for name in ("attacks", "triggerless") for cell in PROTOCOLS[name].cells(SCALES[preset], bench)]
    assert {cell.defense.name for cell in cells} == {"none"}
    assert {cell.attack.name for cell in cells} == {"none", *ATTACKS}


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_sets_made_unlearnable_are_measured_by_accuracy(bench, preset):
    cells = PROTOCOLS["availability"].cells(SCALES[preset], bench)
    availability = {name for name, about in ATTACKS.items() if about.availability}
    assert {cell.attack.name for cell in cells} == {"none", *availability}
    assert len(availability) == 7
    recipes = {cell.victim.recipe for cell in cells}
    assert recipes == ({"constant"} if preset == "paper" else {SCALES[preset].victim.recipe})
    rows = {cell.defense.name: cell.defense for cell in cells}
    assert {"none", "JPEG 10", "grayscale", "2 bits", "UEraser", "UEraser-max", "PureGen-EBM", "PureGen-DDPM"} < set(
        rows
    )
    whole, part = rows["ECLIPSE"], rows["ECLIPSE, purification alone"]
    assert whole.purify_others == part.purify_others == {"method": "eclipse", **PUBLISHED_ECLIPSE}
    assert rows["PureGen-eclipse"].purify_others == {"method": "eclipse"}
    assert whole.train == rows["ECLIPSE, compensation alone"].train == Component(name="corruption_compensation")
    assert part.train is None
    published = PUBLISHED["availability"]
    assert set(published) == availability
    assert {name for figures in published.values() for name in figures} <= set(rows)
    assert {cell.seed for cell in cells} == {0, 1}
    triggered = {cell.attack.name for cell in PROTOCOLS["triggers"].cells(SCALES[preset], bench)}
    assert not triggered & availability


@pytest.mark.parametrize("row", ["grayscale", "bits", "ueraser", "eclipse", "checked"])
def test_a_cell_of_an_unlearnable_set_has_no_success(bench, row):
    smoke = SCALES["smoke"]
    defense = {
        "grayscale": grayscale(),
        "bits": bit_depth(2),
        "ueraser": ueraser("UEraser", smoke),
        "eclipse": eclipse("PureGen-eclipse", smoke),
        "checked": DefenseSpec(train=CHECKED_COMPENSATION),
    }[row]
    record = bench.evaluate(Cell(attack=attack("lsp", "smoke", "lsp"), defense=defense, victim=TINY))
    assert ("images_after" in record) == (row == "eclipse"), "the others change images in training alone"
    assert not {"success", "success_never_poisoned"} & record.keys()
    assert (record["poison"]["poisoned_rows"], record["poison"]["norm"]) == (record["poison"]["set_rows"], "l2")


def test_triggerless_cells_are_those_of_the_protocols_with_defenses(bench):
    def keys(name):
        cells = PROTOCOLS[name].cells(SCALES["smoke"], bench)
        return [bench.key(cell) for cell in cells if cell.defense.name == "none"]

    assert keys("triggerless") == keys("gradient_matching") + keys("bullseye_polytope")


@pytest.mark.parametrize(("classes", "covers"), [(8, (5, 7)), (5, (2, 3)), (3, (2,)), (2, None)])
def test_attacks_fit_sets_of_few_classes(bench, classes, covers):
    whole = bench.sets.train
    rows = whole.labels < classes
    few = ImageSet(whole.images[rows], whole.labels[rows], whole.class_names[:classes])
    cells = PROTOCOLS["attacks"].cells(SCALES["cpu"], Bench(replace(bench.sets, train=few), bench.store))
    found = {cell.attack.name: cell.attack.settings for cell in cells}
    assert found.get("tact", {}).get("cover_classes") == covers
    for cell in cells:
        if (target := cell.attack.settings.get("target_class")) is not None:
            assert few.class_number(target) < classes


def test_one_surrogate_serves_every_strength_and_rate(bench):
    for settings in ({}, {"epsilon": 4.0}, {"rate": 0.02}):
        bench.poison(Cell(attack=attack("narcissus", "smoke", "x", **settings), victim=TINY))
    assert (kept(bench, "poisons"), kept(bench, "surrogates")) == (3, 1)
    bench.poison(Cell(attack=attack("narcissus", "smoke", "x", target_class=2), victim=TINY))
    assert (kept(bench, "poisons"), kept(bench, "surrogates")) == (4, 2)


def test_what_learns_the_same_is_trained_once_whoever_asks(bench):
    for name, settings in (("gradient_matching", {}), ("gradient_matching", {"target_class": 4}), ("clean_label", {})):
        bench.poison(Cell(attack=attack(name, "smoke", "x", **settings), victim=TINY))
    assert (kept(bench, "poisons"), kept(bench, "surrogates")) == (3, 1)


def test_kept_surrogates_craft_the_same_poison(bench, tmp_path):
    aims = [attack("bullseye_polytope", "smoke", "x", rate=0.1, dropouts=(0.1, 0.2), target_class=c) for c in (0, 2)]
    victim = replace(TINY, scenario="linear", transfer_epochs=1)
    first, second = (bench.poison(Cell(attack=aim, victim=victim)) for aim in aims)
    assert kept(bench, "surrogates") == 1
    alone = Bench(bench.sets, Store(tmp_path / "other")).poison(Cell(attack=aims[1], victim=victim))
    assert alone.digest == second.digest != first.digest


def test_an_attacker_who_has_the_extractor_trains_none(bench):
    victim = replace(TINY, scenario="linear", transfer_epochs=1)
    known = attack("bullseye_polytope", "smoke", "x", known=True, rate=0.1)
    poison = bench.poison(Cell(attack=known, victim=victim))
    assert torch.equal(poison.target_images[0], bench.sets.targets.images[bench.sets.targets.labels == 1][0])
    assert not (bench.store.folder / "surrogates").exists()


def test_images_that_an_attack_needs_are_asked_for(bench):
    poor = Bench(replace(bench.sets, public=None), bench.store)
    with pytest.raises(ValueError, match="Expected public images, which 'narcissus' needs"):
        poor.poison(Cell(attack=attack("narcissus", "smoke", "x"), victim=TINY))


def test_cells_of_other_goals_and_of_several_triggers(bench):
    found = {}
    for name, settings in (
        ("badnets", {"goal": "all_to_all"}),
        ("blended", {"goal": "untargeted", "target_class": 3}),
        ("mixed", {}),
        ("gcb", {}),
    ):
        found[name] = bench.evaluate(Cell(attack=attack(name, "smoke", name, rate=0.1, **settings), victim=TINY))
    assert {name: "success_by_trigger" in record for name, record in found.items()} == {
        "badnets": False,
        "blended": False,
        "mixed": True,
        "gcb": False,
    }
    assert found["blended"]["success_never_poisoned"] > 0.5, "whatever a victim that knows nothing gets wrong"
    parts = found["mixed"]["success_by_trigger"]
    assert found["mixed"]["success"] == pytest.approx(sum(parts) / 2)
    assert len(found["mixed"]["success_never_poisoned_by_trigger"]) == 2


def test_the_key_of_a_cell_is_as_before_unless_it_is_varied(bench):
    plain, moved = (bench.key(Cell(attack=attack("sig", "smoke", "x", jitter=n), victim=TINY)) for n in (0, 2))
    assert set(plain["attack"]["config"]) == {"target_class", "rate", "strength", "frequency"}
    assert moved["attack"]["config"]["jitter"] == 2
    aimed = [attack("badnets", "smoke", "x", goal="untargeted", target_class=number).settings for number in (0, 3)]
    assert aimed[0] == aimed[1], "a target class that is not used decides nothing"

"""Cells: what is kept, what is shared, what is computed again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms._files import hash_file
from puregen_transforms.defenses.epic import Epic
from puregen_transforms.defenses.victim_beneficiary import VictimBeneficiary
from puregen_transforms.detection import DETECTORS, DetectionReport, Detector
from puregen_transforms.evaluate.bench import Bench, run_cells
from puregen_transforms.evaluate.cells import AttackSpec, Cell, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.defend import KeptPurifier, identity_of
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.rows import epic, friends, only_detect, patterns_left_out, patterns_purified, vab
from puregen_transforms.evaluate.store import Store
from puregen_transforms.functional.images import normalize
from puregen_transforms.hub.catalogue import DEFAULT_EBM
from tests.evaluate.conftest import QUICK

TINY = VictimSpec(classifier="tiny", epochs=3)
BADNETS = attack("badnets", "smoke", "badnets", target_class="cat")
BLENDED = attack("blended", "smoke", "blended", target_class="cat")


@pytest.fixture
def sets(ten_classes):
    return ten_classes


@pytest.fixture
def bench(sets, tmp_path):
    return Bench(sets, Store(tmp_path))


def purify(name, steps=2, **options):
    return DefenseSpec(name=name, purify_others={**options, "ebm_steps": steps})


@pytest.fixture
def ebm(tiny_checkpoint):
    return purify("EBM", checkpoint=str(tiny_checkpoint))


def cell(attack=None, defense=None):
    return Cell(attack=attack or AttackSpec(), defense=defense or DefenseSpec(), victim=TINY)


def through_json(record):
    return json.loads(json.dumps(record))


def without_times(record):
    return {key: value for key, value in record.items() if key != "seconds"}


def test_a_deleted_cell_is_computed_again_from_what_is_kept(bench, ebm):
    cells = [cell(a, d) for a in (None, BADNETS) for d in (None, ebm)]
    before = [bench.evaluate(one) for one in cells]
    files = [bench.store.path_of("cells", bench.key(one), ".json") for one in cells]
    assert len(set(files)) == 4
    files[3].unlink()
    times = {path: path.stat().st_mtime_ns for path in bench.store.folder.rglob("*") if path.is_file()}
    computed = []
    talking = Bench(bench.sets, bench.store, say=computed.append)
    after = [talking.evaluate(one) for one in cells]
    assert [without_times(one) for one in after] == [without_times(one) for one in before]
    assert computed == [], "its victim is kept"
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_cells_of_a_record_are_not_computed_again_elsewhere(bench, ebm, tmp_path):
    record = through_json(bench.evaluate(cell(BADNETS)))
    elsewhere = Bench(bench.sets, Store(tmp_path / "elsewhere"))
    elsewhere.adopt([record, {"accuracy": 0.5}])
    assert elsewhere.is_kept(cell(BADNETS))
    assert not elsewhere.is_kept(cell(BADNETS, ebm))
    assert through_json(elsewhere.evaluate(cell(BADNETS))) == record, "its seconds, too: they were not measured again"
    elsewhere.adopt([{**record, "accuracy": 0.0}])
    assert through_json(elsewhere.evaluate(cell(BADNETS))) == record, "what is kept already stays"
    with pytest.raises(ValueError, match=r"24 hex digits.*'\.\./\.\./outside'"):
        elsewhere.adopt([{**record, "key": "../../outside"}])


def test_only_the_rows_of_an_attack_are_purified_anew(sets, tmp_path):
    store, seen = Store(tmp_path), []

    def change(images, rows):
        seen.append(rows.tolist())
        return images

    clean = sets.train.images
    poisoned = clean.clone()
    poisoned[[5, 70]] = 255 - poisoned[[5, 70]]
    for images in (clean, poisoned, poisoned):
        purifier = KeptPurifier(images, clean, store, "cpu")
        assert torch.equal(purifier.of_each("nothing", change), images)
    assert seen == [list(range(len(clean))), [5, 70]]
    purifier.of_each("another", change)
    assert len(seen) == 4


def test_purifying_row_by_row_is_purifying_the_set(sets, tmp_path, tiny_checkpoint):
    clean = sets.train.images
    poison = Bench(sets, Store(tmp_path)).poison(cell(BADNETS))
    images, _ = poison.apply_to_tensors(clean, sets.train.labels)
    options = {"checkpoint": str(tiny_checkpoint), "ebm_steps": 3}
    whole = PureGen(seed=0, **options).purifier(images, sample_ids=torch.arange(len(images)), seed=0)
    purify = KeptPurifier(images, clean, Store(tmp_path), "cpu")
    assert torch.equal(purify(options).images, whole)
    some = torch.tensor([3, 50])
    assert torch.equal(purify(options, some).images, whole[some])


@pytest.mark.parametrize("method", ["filt", pytest.param("adaptive", marks=pytest.mark.slow)])
def test_methods_with_a_threshold_are_fitted_to_the_poisoned_set(sets, tmp_path, method):
    clean = sets.train.images
    images = clean.clone()
    images[:10] = torch.randint(0, 256, images[:10].shape, dtype=torch.uint8)
    options = {"method": method, "ddpm_steps": 2, "ebm_steps": 1, "filter_fraction": 0.1}
    purify = KeptPurifier(images, clean, Store(tmp_path), "cpu")
    defended = purify(options)
    fitted = PureGen(seed=0, **options).fit(images)
    expected = fitted.purifier(images, sample_ids=torch.arange(len(images)), seed=0)
    assert torch.equal(defended.images, expected)
    assert defended.flagged.sum() == 12
    assert defended.flagged[:10].all()
    with pytest.raises(ValueError, match="without a threshold for flagged images"):
        purify(options, torch.tensor([0]))


@pytest.mark.slow
def test_several_processes_give_the_same(bench, sets, tmp_path, ebm):
    cells = [cell(a, d) for a in (BADNETS, BLENDED) for d in (None, ebm)]
    alone = {str(one): without_times(record) for one, record in run_cells(bench, cells)}
    shared = Bench(sets, Store(tmp_path / "shared"))
    together = {str(one): without_times(record) for one, record in run_cells(shared, cells, jobs=2)}
    for one in cells:
        first, second = alone[str(one)], together[str(one)]
        assert first["accuracy"] == pytest.approx(second["accuracy"], abs=0.03)  # other numbers of threads
        assert first["poison"] == second["poison"]
        assert set(first) == set(second)


@dataclass(frozen=True, kw_only=True)
class LastRows(Detector):
    """Flag the last images: a detector from elsewhere."""

    kept: int = 60

    def detect(self, suspects):
        scores = torch.arange(len(suspects)).float()
        return DetectionReport(scores=scores, flagged=scores >= self.kept)


def test_a_detector_from_elsewhere_needs_no_change_of_the_harness(bench, monkeypatch):
    monkeypatch.setitem(DETECTORS, "last_rows", LastRows)
    spec = DefenseSpec(name="x", detect=[Component(name="last_rows", settings={"kept": 30})])
    record = bench.evaluate(cell(BADNETS, spec))
    poison = bench.poison(cell(BADNETS))
    assert record["rows_learned"] == 30
    assert record["detection"]["tpr"] == pytest.approx((poison.ids >= 30).float().mean().item())
    others = len(bench.sets.train) - len(poison)
    assert record["detection"]["fpr"] == pytest.approx((90 - int((poison.ids >= 30).sum())) / others)
    assert 0 <= record["detection"]["auroc"] <= 1
    before = bench.key(cell(BADNETS, spec))
    monkeypatch.setattr(LastRows, "version", 2)
    assert bench.key(cell(BADNETS, spec)) != before, "cells of an older algorithm are not taken for new ones"


def test_victims_of_the_same_images_are_trained_once(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "last_rows", LastRows)
    said = []
    bench = Bench(sets, Store(tmp_path), say=said.append)

    def epochs(**parts):
        said.clear()
        record = bench.evaluate(cell(BADNETS, DefenseSpec(**parts)))
        assert record["seconds"]["train"] > 0, "told also where the victim was kept"
        return record, sum("epoch" in line for line in said)

    last, none, half = (Component(name="last_rows", settings={"kept": kept}) for kept in (60, 1000, 61))
    plain, _ = epochs()
    kept, trained = epochs(detect=[last], keep_flagged=True)
    assert (kept["accuracy"], kept["success"], trained) == (plain["accuracy"], plain["success"], 0)
    assert kept["detection"]["fpr"] > 0, "the detector itself is judged"
    assert "rows_learned" not in kept
    assert epochs(detect=[none])[1] == 0, "nothing is left out"
    assert epochs(detect=[last])[1] == TINY.epochs
    assert epochs(detect=[last, half])[1] == 0, "the same rows are left, whoever found them"


def test_flagged_images_are_not_both_kept_and_purified():
    with pytest.raises(ValueError, match="but got both"):
        DefenseSpec(keep_flagged=True, purify_flagged={})


def test_detect_purify_and_train_are_parts_that_combine(bench, monkeypatch, tiny_checkpoint):
    monkeypatch.setitem(DETECTORS, "last_rows", LastRows)
    options = {"checkpoint": str(tiny_checkpoint), "ebm_steps": 1}
    spec = DefenseSpec(
        name="all",
        detect=[Component(name="last_rows")],
        purify_others=options,
        train=Component(name="epic", settings={"interval": 1}),
    )
    record = bench.evaluate(cell(BADNETS, spec))
    assert record["rows_learned"] == 60
    assert record["images_after"]
    dropped = record["detection"]["tpr"] + record["detection"]["fpr"]
    alone = bench.evaluate(cell(BADNETS, replace(spec, train=None)))["detection"]
    assert dropped > alone["tpr"] + alone["fpr"], "those that EPIC drops count as flagged, too"


@dataclass(frozen=True, kw_only=True)
class Curious(Detector):
    """Look at everything that it is given."""

    needs = frozenset({"labels", "reserved", "network"})

    def detect(self, suspects):
        SEEN.append(suspects)
        scores = torch.zeros(len(suspects))
        return DetectionReport(scores=scores, flagged=scores > 0)


SEEN = []


def test_a_detector_is_given_the_victim_that_it_can_do_without(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "curious", Curious)
    monkeypatch.setattr(Curious, "needs", frozenset({"labels"}))
    SEEN.clear()
    bench, one = Bench(sets, Store(tmp_path)), cell(BADNETS, DefenseSpec(detect=[Component(name="curious")]))
    bench.evaluate(one)
    monkeypatch.setattr(Curious, "uses", frozenset({"network"}))
    monkeypatch.setattr(Curious, "version", 2)
    bench.evaluate(one)
    without, given = SEEN
    assert without.network is None
    assert given.network is not None


def test_no_detector_can_reach_the_truth(sets, tmp_path, monkeypatch):
    monkeypatch.setitem(DETECTORS, "curious", Curious)
    SEEN.clear()
    reserved = sets.test.subset(torch.arange(20))
    bench = Bench(replace(sets, reserved=reserved), Store(tmp_path))
    one = cell(BADNETS, DefenseSpec(name="curious", detect=[Component(name="curious")]))
    bench.evaluate(one)
    (suspects,) = SEEN
    poison = bench.poison(one)
    images, labels = poison.apply_to_tensors(sets.train.images, sets.train.labels)
    assert torch.equal(suspects.images, images)
    assert torch.equal(suspects.labels, labels)
    assert torch.equal(suspects.reserved.images, reserved.images)
    clean = {bytes(image.numpy().tobytes()) for image in sets.train.images[poison.ids]}
    for image in (*suspects.images, *suspects.reserved.images):
        assert image.numpy().tobytes() not in clean
    known = {"images", "labels", "class_names", "reserved", "network", "seed", "device", "state", "progress", "known"}
    assert set(vars(suspects)) == known
    assert not suspects.known
    assert not any(name in str(suspects.state) for name in ("poison", poison.digest[:8]))
    undefended = bench.evaluate(cell(BADNETS))
    assert undefended["accuracy"] == pytest.approx(
        (suspects.network.eval()(normalize(sets.test.images)).argmax(1) == sets.test.labels).float().mean().item(),
        abs=0.02,
    ), "the network is the undefended victim"
    keys = {json.dumps(Bench(part, bench.store).key(one)) for part in (bench.sets, sets)}
    monkeypatch.setattr(Curious, "needs", frozenset())
    monkeypatch.setattr(Curious, "uses", frozenset({"reserved"}))
    keys |= {json.dumps(Bench(part, bench.store).key(one)) for part in (bench.sets, sets)}
    assert len(keys) == 2, "the reserved set decides a cell whether it is needed or used"
    monkeypatch.undo()
    monkeypatch.setitem(DETECTORS, "curious", Curious)
    lacking = Bench(sets, Store(tmp_path / "other"))
    with pytest.raises(ValueError, match="clean labelled set .* 'curious' needs"):
        lacking.evaluate(one)


def test_settings_decide_the_cell_and_names_do_not(bench, ebm):
    named = replace(ebm, name="another name")
    assert bench.key(cell(BADNETS, ebm)) == bench.key(cell(BADNETS, named))
    group = AttackSpec(name=BADNETS.name, settings=BADNETS.settings, group="another column")
    assert bench.key(cell(group)) == bench.key(cell(BADNETS))
    keys = [
        bench.key(cell(BADNETS, ebm)),
        bench.key(cell(BLENDED, ebm)),
        bench.key(cell(BADNETS, purify("EBM", 150, checkpoint=ebm.purify_others["checkpoint"]))),
        bench.key(cell(BADNETS, purify("EBM"))),
        bench.key(Cell(attack=BADNETS, defense=ebm, victim=TINY, seed=1)),
        bench.key(Cell(attack=BADNETS, defense=ebm, victim=VictimSpec(classifier="tiny", epochs=4))),
    ]
    assert len({json.dumps(key) for key in keys}) == len(keys)


def test_other_weights_under_the_same_path_are_another_cell(bench, tmp_path):
    from tests.conftest import make_checkpoint

    folder = make_checkpoint(tmp_path / "weights", seed=0)
    first = bench.key(cell(BADNETS, purify("EBM", checkpoint=str(folder))))
    make_checkpoint(folder, seed=1)
    assert bench.key(cell(BADNETS, purify("EBM", checkpoint=str(folder)))) != first


def test_the_same_weights_in_another_folder_are_the_same_cell(bench, tiny_checkpoint, tmp_path):
    cells = []
    for name in ("here", "there"):
        shutil.copytree(tiny_checkpoint, tmp_path / name / "weights")
        cells.append(cell(BADNETS, purify("EBM", checkpoint=str(tmp_path / name / "weights"))))
    first = bench.evaluate(cells[0])
    assert bench.is_kept(cells[1])
    assert bench.evaluate(cells[1]) == first
    assert str(tmp_path) not in json.dumps(first)
    assert hash_file(tiny_checkpoint / "model.safetensors") in json.dumps(first["cell"])
    bench.store.path_of("cells", bench.key(cells[1]), ".json").unlink()
    kept = set((bench.store.folder / "per-image").iterdir())
    assert without_times(bench.evaluate(cells[1])) == without_times(first)
    assert set((bench.store.folder / "per-image").iterdir()) == kept, "purified images are found again, too"
    found = patterns_purified()
    moved = [replace(found, purify_flagged=one.defense.purify_others) for one in cells]
    assert bench.key(cell(BADNETS, moved[0])) == bench.key(cell(BADNETS, moved[1]))


def test_names_of_the_catalogue_stay_in_the_key(bench):
    """Cells that are kept already are found again."""
    for checkpoint in (None, DEFAULT_EBM):
        options = {} if checkpoint is None else {"checkpoint": checkpoint}
        key = bench.key(cell(BADNETS, purify("EBM", **options)))
        assert key["defense"]["purify_others"] == {**options, "ebm_steps": 2}
        assert key["identity"] == {"purify_others": PureGen(seed=0, ebm_steps=2, **options).digest}


def test_training_defenses_and_what_they_drop(bench, monkeypatch):
    assert "detection" not in bench.evaluate(cell(BADNETS, friends(QUICK)))
    seen, told = [], Epic.flagged
    monkeypatch.setattr(Epic, "flagged", lambda self, hooks: seen.append(told(self, hooks)) or seen[-1])
    found = bench.evaluate(cell(BADNETS, epic(QUICK)))["detection"]
    poisoned = set(bench.poison(cell(BADNETS)).ids.tolist())
    flagged = set(seen[-1].nonzero().flatten().tolist())
    assert flagged
    assert found["tpr"] == pytest.approx(len(flagged & poisoned) / len(poisoned))
    assert found["fpr"] == pytest.approx(len(flagged - poisoned) / (len(bench.sets.train) - len(poisoned)))


@pytest.mark.slow
def test_victim_and_beneficiary_say_what_is_suspicious_or_take_it_from_a_detector(bench):
    short = {"epochs": 2, "clean_epochs": 1, "weight_rise": 1, "warmup_steps": 1}
    frequency, quick = Component(name="frequency"), replace(QUICK, purify={"ebm": {"ebm_steps": 1}})
    specs = [vab(QUICK, **short), vab(QUICK, frequency, **short), vab(quick, frequency, purified=True, **short)]
    assert specs[0].train.settings == {**VictimBeneficiary.presets["smoke"], **short}
    assert [spec.name for spec in specs] == ["V&B", "V&B, split by frequency", "V&B, split by frequency + PureGen"]
    records = [bench.evaluate(cell(BADNETS, spec)) for spec in specs]
    alone = bench.evaluate(cell(BADNETS, only_detect("frequency", [frequency])))["detection"]
    assert records[2]["detection"] == records[1]["detection"] == alone != records[0]["detection"]
    assert ["images_after" in record for record in records] == [False, False, True]
    assert ["looks" in record for record in records] == [True, False, False], "where the Victim splits"
    assert ["mixed" in record for record in records] == [True, False, False], "where images are learned as published"
    assert len(records[0]["mixed"]["weights"]) == 4
    assert specs[1].train.settings["epochs"] == 2
    assert specs[1].train.settings["suspicious"] == "correct"
    published = vab(QUICK, frequency, as_published=True)
    assert published.train.settings == VictimBeneficiary.presets["smoke"]
    looks, last = records[0]["looks"], records[0]["detection"]
    assert [looks[key][-1] for key in ("tpr", "fpr")] == [pytest.approx(last[key], abs=1e-4) for key in ("tpr", "fpr")]


def test_transfer_refuses_a_defense_that_acts_in_training(bench):
    victim = VictimSpec(classifier="tiny", epochs=1, scenario="linear", transfer_epochs=1)
    with pytest.raises(ValueError, match="defense of the images"):
        bench.evaluate(Cell(defense=friends(QUICK), victim=victim))


def test_inspecting_a_set_without_a_pattern_changes_nothing(bench):
    plain = bench.evaluate(cell(BADNETS))
    for defense in (patterns_left_out(), patterns_purified()):
        record = bench.evaluate(cell(BADNETS, defense))
        assert record["accuracy"] == plain["accuracy"]
        assert record["detection"]["fpr"] == 0


def test_names_that_do_not_exist(bench):
    with pytest.raises(ValueError, match="training defense out of none, friends, epic, .*but got 'wall'"):
        identity_of(DefenseSpec(train=Component(name="wall")))
    with pytest.raises(ValueError, match="detector out of shared_patterns"):
        identity_of(DefenseSpec(detect=[Component(name="wall")]))
    with pytest.raises(ValueError, match="settings of 'epic' out of share, interval, but got shore"):
        identity_of(DefenseSpec(train=Component(name="epic", settings={"shore": 1})))
    with pytest.raises(ValueError, match="scenario out of"):
        VictimSpec(scenario="dream")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_benchmark_goes_on_where_it_was(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/narcissus.py"

    def start(runs, output):
        command = [sys.executable, str(script), "--preset", "smoke", "--runs", str(runs), "--output", str(output)]
        return subprocess.Popen([*command, "--defenses", "none", "PureGen-EBM"], stdout=subprocess.PIPE, text=True)

    def finish(process):
        text = process.communicate(timeout=600)[0]
        assert process.returncode == 0
        return text

    killed = start(tmp_path / "a", tmp_path / "a.json")
    for line in killed.stdout:
        if line.startswith("3/4"):
            os.kill(killed.pid, signal.SIGKILL)
            break
    killed.wait()
    assert not (tmp_path / "a.json").exists()
    resumed = finish(start(tmp_path / "a", tmp_path / "a.json"))
    assert resumed.count("epoch") <= SCALES["smoke"].victim.epochs, "one victim at most is trained again"
    finish(start(tmp_path / "b", tmp_path / "b.json"))
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert [without_times(one) for one in first["cells"]] == [without_times(one) for one in second["cells"]]

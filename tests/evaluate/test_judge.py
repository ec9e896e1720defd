"""Classifiers are judged in the course of their training, and it changes nothing for them."""

import pytest
import torch

from puregen_transforms.evaluate import bench as benches
from puregen_transforms.evaluate.bench import Bench
from puregen_transforms.evaluate.cells import Cell, Component, DefenseSpec, VictimSpec
from puregen_transforms.evaluate.grids import attack
from puregen_transforms.evaluate.judge import Judge
from puregen_transforms.evaluate.rows import friends
from puregen_transforms.evaluate.store import Store
from puregen_transforms.evaluate.victim import accuracy
from puregen_transforms.models.classifiers import build_classifier
from tests.evaluate.conftest import QUICK

SHORT = {"isolation_epochs": 2, "epochs": 3, "unlearning_epochs": 2, "share": 0.05, "batch": 16}
CELL = Cell(
    attack=attack("badnets", "smoke", "badnets", target_class="cat"),
    defense=DefenseSpec(name="ABL", train=Component(name="abl", settings=SHORT)),
    victim=VictimSpec(classifier="tiny", epochs=3),
)


def test_some_test_images_are_enough(ten_classes, tmp_path, monkeypatch):
    monkeypatch.setattr("puregen_transforms.evaluate.judge._MOST", 30)
    test, model = ten_classes.test, build_classifier("tiny", 10)
    judge = Judge(tmp_path, test, None)
    judge(1, model)
    assert judge.course() == {"images": 27, "accuracy": [round(accuracy(model, test.images[::3], test.labels[::3]), 4)]}
    assert len(test) == 80


def test_epochs_that_were_judged_before_are_not_judged_again(ten_classes, tmp_path):
    first, second = (build_classifier("tiny", 10) for _ in range(2))
    torch.nn.init.constant_(second[-1].bias, 0.0)
    second[-1].bias.data[3] = 1e6
    judge = Judge(tmp_path, ten_classes.test, None)
    judge(1, first)
    again = Judge(tmp_path, ten_classes.test, None)
    for epoch in (1, 2):
        again(epoch, second)
    assert again.course()["accuracy"] == [*judge.course()["accuracy"], 0.1]


def test_long_trainings_are_judged_by_epoch_and_end_at_the_record(ten_classes, tmp_path):
    bench = Bench(ten_classes, Store(tmp_path))
    record = bench.evaluate(CELL)
    course = record["by_epoch"]
    assert len(course["accuracy"]) == len(course["success"]) == 7
    assert course["accuracy"][-1] == pytest.approx(record["accuracy"], abs=1e-4)
    assert course["success"][-1] == pytest.approx(record["success"], abs=1e-4)
    assert "by_epoch" not in bench.evaluate(Cell(defense=friends(QUICK), victim=CELL.victim)), "as long as a plain one"


def test_a_killed_training_has_the_course_of_an_unkilled_one(ten_classes, tmp_path, monkeypatch):
    expected = Bench(ten_classes, Store(tmp_path / "a")).evaluate(CELL)

    class KilledError(Exception):
        pass

    class Dying(Judge):
        """Die after each epoch: before it is judged, or after."""

        def __call__(self, epoch, model):
            new = epoch > len(self.found)
            if new and epoch % 2 and epoch not in deaths:
                deaths.add(epoch)
                raise KilledError
            super().__call__(epoch, model)
            if new and epoch not in deaths:
                deaths.add(epoch)
                raise KilledError

    deaths = set()
    monkeypatch.setattr(benches, "Judge", Dying)
    killed = Bench(ten_classes, Store(tmp_path / "b"))
    for _ in range(7):
        with pytest.raises(KilledError):
            killed.evaluate(CELL)
    record = killed.evaluate(CELL)
    for key in ("accuracy", "success", "by_epoch", "detection"):
        assert record[key] == expected[key]

"""What several searches come to together."""

import json
import tempfile
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import DetectionReport, Detector, SuspectSet, detect
from puregen_transforms.detection import whole_search as module
from puregen_transforms.detection.label_disagreement import LabelDisagreement
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.searches import BUDGETS, DOUBT, MISLABELED, NEVER, POISON, SEARCHES, Search
from puregen_transforms.detection.verdict import CLEAN_ROW, LeftOut, Searched, conclude, rank_of
from puregen_transforms.detection.whole_search import read_once, search_set


def report(*rows, count=6, scores=None):
    flagged = torch.zeros(count, dtype=torch.bool)
    flagged[list(rows)] = True
    return DetectionReport(scores=flagged.float() if scores is None else scores, flagged=flagged)


def made(means, *rows, name="one", **options):
    return Searched(
        search=Search(name=name, detector=SEARCHES[0].detector, finds="something", means=means),
        report=report(*rows, **options),
    )


def test_poison_is_more_than_a_doubt_and_a_doubt_more_than_a_wrong_label():
    verdict = conclude([made(MISLABELED, 0, 1, 2), made(DOUBT, 1, 2), made(POISON, 2)], [], 6)
    assert verdict.flagged.nonzero().flatten().tolist() == [2]
    assert verdict.doubtful.nonzero().flatten().tolist() == [1]
    assert verdict.mislabeled.nonzero().flatten().tolist() == [0]
    assert verdict.found_by.tolist() == [0, 1, 2, CLEAN_ROW, CLEAN_ROW, CLEAN_ROW]
    assert verdict.level == "poisoned"
    assert "1 of 6 images" in verdict.headline


def test_labels_that_look_wrong_count_for_nothing_beside_poison_that_explains_them():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    moved = replace(made(DOUBT, 1, 4), search=replace(made(DOUBT).search, explained_by_poison=True))
    verdict = conclude([made(POISON, 0), moved], [], 6, labels=labels)
    assert verdict.flagged.nonzero().flatten().tolist() == [0]
    assert verdict.doubtful.nonzero().flatten().tolist() == [4]
    assert conclude([made(POISON), moved], [], 6, labels=labels).doubtful.nonzero().flatten().tolist() == [1, 4]


def test_a_part_of_a_class_that_marks_explain_has_their_edge():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    split = made(POISON, 0, 1, 2, 4)
    split = replace(split, search=replace(split.search, explained_by_marks=True))
    mark = Mark(kind="stamp", rows=torch.tensor([0, 1]), picture=torch.zeros(4, 3, 3), place=(0, 0), ratio=2.0)

    def flagged(*rows, marks=(mark,)):
        stamps = made(POISON, *rows)
        stamps = replace(stamps, report=replace(stamps.report, marks=marks))
        return conclude([stamps, split], [], 6, labels=labels).flagged.nonzero().flatten().tolist()

    assert flagged(0, 1) == [0, 1, 4]  # row 2 carries no mark, and most of its side do; class 1 has no mark
    assert flagged(0) == [0, 1, 2, 4]  # one of three does not explain the side
    assert flagged(0, 1, marks=()) == [0, 1, 2, 4]
    assert conclude([split], [], 6, labels=labels).flagged.sum() == 4


def test_doubts_alone_are_no_poison_and_wrong_labels_alone_no_doubt():
    assert conclude([made(POISON), made(DOUBT, 3)], [], 6).level == "doubtful"
    verdict = conclude([made(MISLABELED, 0)], [], 6)
    assert verdict.level == "nothing found"
    assert "None of 1 searches" in verdict.headline


def test_only_flagged_images_score_above_one_and_labels_do_not_count():
    scores = torch.tensor([9.0, 1, 2, 3, 4, 5])
    verdict = conclude([made(POISON, 5, scores=scores), made(MISLABELED, 1, scores=100 * scores.flip(0))], [], 6)
    assert ((verdict.scores >= 1) == verdict.flagged).all()
    assert verdict.scores.argmax() == 5
    assert verdict.scores[0] == verdict.scores[~verdict.flagged].max()


def test_where_all_images_are_flagged_all_score_above_one():
    verdict = conclude([made(POISON, *range(6))], [], 6)
    assert (verdict.scores > 1).all()


def test_ranks_are_shares_and_ties_are_alike():
    assert rank_of(torch.tensor([3.0, 1, 1, 2])).tolist() == pytest.approx([1, 0, 0, 2 / 3], abs=1e-5)
    assert rank_of(torch.tensor([torch.nan, 5.0])).tolist() == pytest.approx([0, 1], abs=1e-5)
    assert rank_of(torch.zeros(4)).tolist() == [0, 0, 0, 0], "a search that finds nothing says nothing"


def test_what_was_left_out_is_said():
    search = SEARCHES[-1]
    verdict = conclude([made(POISON)], [LeftOut(search=search, why="it needs a clean set")], 6)
    assert verdict.not_looked_for == (f"{search.finds}: it needs a clean set", *NEVER)


@dataclass(frozen=True, kw_only=True)
class First(Detector):
    """Flag the first rows, and count how often it was asked."""

    needs: ClassVar[frozenset[str]] = frozenset()
    rows: int = 2

    def detect(self, suspects):
        ASKED.append((self.rows, suspects.network, type(suspects.images)))
        flagged = torch.arange(len(suspects)) < self.rows
        return DetectionReport(scores=flagged.float(), flagged=flagged)


@dataclass(frozen=True, kw_only=True)
class Reader(First):
    """Look into a network."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels", "network"})


@dataclass(frozen=True, kw_only=True)
class Broken(First):
    """Refuse every set."""

    def detect(self, suspects):
        raise ValueError("Expected better images.")


ASKED = []


@pytest.fixture
def searches(monkeypatch):
    ASKED.clear()
    chosen = (
        Search(name="first", detector=First(), finds="first rows"),
        Search(name="broken", detector=Broken(), finds="better images"),
        Search(name="reader", detector=Reader(rows=4), finds="rows by a network", budget="20m", means=DOUBT),
        Search(name="more", detector=First(rows=5), finds="more rows", budget="full"),
    )
    monkeypatch.setattr(module, "SEARCHES", chosen)
    return chosen


def suspects(**options):
    demo = load_demo()
    return SuspectSet(images=demo.images[:20], labels=demo.labels[:20], class_names=CLASSES, **options)


def no_training(suspects):
    return torch.nn.Identity()


def test_a_budget_decides_what_is_searched_and_a_refusal_stops_nothing(searches):
    verdict = search_set(suspects(), budget="2m", train=no_training)
    assert [one.search.name for one in verdict.made] == ["first"]
    assert {one.search.name: one.why for one in verdict.left_out} == {
        "broken": "Expected better images.",
        "reader": "not within the budget; raise it to 20m",
        "more": "not within the budget; raise it to full",
    }
    assert [(2, None, torch.Tensor)] == ASKED
    verdict = search_set(suspects(), budget="full", train=no_training)
    assert [one.search.name for one in verdict.made] == ["first", "reader", "more"]
    assert ASKED[2][1] is not None, "a network is trained where one is needed"
    assert int(verdict.flagged.sum()) == 5
    with pytest.raises(ValueError, match="2m, 20m, full, but got '3m'"):
        search_set(suspects(), budget="3m")


def test_what_several_searches_need_is_computed_once_and_left_nowhere(searches, tmp_path, monkeypatch):
    asked = []

    def read(self, images):
        asked.append(len(images))
        return torch.rand(len(images), 8)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("puregen_transforms.detection.frozen_features.FeatureReader.read", read)
    twice = (LabelDisagreement(), LabelDisagreement(threshold=3.0))
    searched = tuple(Search(name=f"{number}", detector=one, finds="labels") for number, one in enumerate(twice))
    monkeypatch.setattr(module, "SEARCHES", searched)
    assert len(search_set(suspects(), budget="2m").made) == 2
    assert asked == [20]
    assert not list(tmp_path.iterdir())


def test_a_search_that_was_made_already_counts_whatever_the_budget(searches):
    known = report(7, 9, count=20)
    verdict = search_set(suspects(known={"reader": known}), budget="2m")
    assert [one.search.name for one in verdict.made] == ["first", "reader"]
    assert verdict.doubtful.nonzero().flatten().tolist() == [7, 9]
    assert [(2, None, torch.Tensor)] == ASKED, "it is not made again"


def test_a_set_that_nothing_can_search_is_refused(searches, monkeypatch):
    monkeypatch.setattr(module, "SEARCHES", searches[1:2])
    with pytest.raises(ValueError, match="no search .* can be made. broken: Expected better images"):
        search_set(suspects(), budget="2m")


def test_without_labels_what_needs_them_is_left_out(searches):
    verdict = search_set(replace(suspects(), labels=None), budget="20m", train=no_training)
    why = {one.search.name: one.why for one in verdict.left_out}
    assert why["reader"].startswith("it needs the class of each image (`labels`)")


def test_a_search_that_lacks_clean_images_says_what_it_could_miss(searches, monkeypatch):
    weak = replace(searches[0], without_reserved="if it is faint")
    monkeypatch.setattr(module, "SEARCHES", (weak,))
    assert "first rows, if it is faint" in search_set(suspects()).not_looked_for
    demo = load_demo()
    given = suspects(reserved=ImageSet(demo.images[100:], demo.labels[100:], CLASSES))
    assert "first rows, if it is faint" not in search_set(given).not_looked_for


def test_a_killed_search_goes_on(searches, tmp_path):
    class KilledError(Exception):
        pass

    def killed(suspects):
        raise KilledError

    with pytest.raises(KilledError):
        search_set(suspects(state=tmp_path), budget="20m", train=killed)
    ASKED.clear()
    verdict = search_set(suspects(state=tmp_path), budget="20m", train=no_training)
    assert [rows for rows, _, _ in ASKED] == [4], "the first search was finished"
    assert int(verdict.flagged.sum()) == 2
    ASKED.clear()
    changed = replace(suspects(state=tmp_path), images=suspects().images.flip(3))
    search_set(changed, budget="2m")
    assert [rows for rows, _, _ in ASKED] == [2], "another set is searched anew"


def test_images_of_one_size_are_read_once():
    demo = load_demo()
    pictures = [image.permute(1, 2, 0).numpy() for image in demo.images[:4]]
    assert torch.equal(read_once(SuspectSet(images=pictures)).images, demo.images[:4])
    mixed = [*pictures, pictures[0][:16]]
    assert read_once(SuspectSet(images=mixed)).images is mixed


def test_the_whole_search_is_a_detector(searches):
    demo = load_demo()
    found = detect(
        "whole_search", demo.images[:20], demo.labels[:20], settings={"budget": "20m"}, network=no_training(0)
    )
    assert found.flagged.nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert ((found.scores > 1) == found.flagged).all()
    strict = detect(
        "whole_search",
        demo.images[:20],
        demo.labels[:20],
        settings={"budget": "20m", "doubtful": False},
        network=no_training(0),
    )
    assert strict.flagged.nonzero().flatten().tolist() == [0, 1]
    json.dumps(found.settings)
    with pytest.raises(ValueError, match="out of 2m, 20m, full"):
        detect("whole_search", demo.images[:20], settings={"budget": "1h"})


def test_every_search_says_what_it_finds():
    assert all(search.budget in BUDGETS and search.finds for search in SEARCHES)
    assert len({search.name for search in SEARCHES}) == len(SEARCHES)

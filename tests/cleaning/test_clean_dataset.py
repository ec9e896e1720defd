"""`clean_dataset`: data sets of torch and of `datasets`, in memory and copied."""

from __future__ import annotations

import hashlib

import pytest
from datasets import DatasetDict
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from puregen_transforms import CleanedDataset, PureGen, PurifiedDataset, clean_dataset
from puregen_transforms.data.image_folder import ImageFolder as FolderOfImages
from puregen_transforms.data.parquet_files import ParquetSplit
from puregen_transforms.data.sources import open_source
from puregen_transforms.detection import whole_search
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.detection.searches import SEARCHES, UNLEARNABLE, Search
from puregen_transforms.whole_sets.manifest import read_settings
from puregen_transforms.whole_sets.verify import problems_of
from tests.cleaning.conftest import COUNT, POISONED, cells, content, images_of
from tests.cleaning.pairs import Pairs

KEPT = [row for row in range(COUNT) if row not in POISONED]


def cleaned(dataset, output_dir=None, **options):
    return clean_dataset(dataset, output_dir=output_dir, budget="2m", device="cpu", **options)


class TestDatasets:
    def test_a_data_set_is_parted_without_a_file(self, table, tmp_path):
        found = cleaned(table)
        assert isinstance(found, CleanedDataset)
        assert (found.kept["id"][:], found.removed["id"][:]) == (KEPT, POISONED)
        assert found.report.level == "poisoned"
        assert found.report.not_looked_for
        assert not list(tmp_path.iterdir())

    def test_a_copy_has_the_same_rows(self, table, tmp_path):
        found = cleaned(table, tmp_path / "out")
        assert (found.kept["id"][:], found.removed["id"][:]) == (KEPT, POISONED)
        assert found.kept.features == table.features
        stored = cells(table)
        assert cells(found.kept) == [stored[row] for row in KEPT]
        assert found.report.page == tmp_path / "out.report/report.html"
        assert not list(problems_of(tmp_path / "out"))

    def test_a_second_call_opens_what_is_there(self, table, tmp_path, monkeypatch):
        first = cleaned(table, tmp_path / "out")
        written = content(tmp_path / "out")
        monkeypatch.setattr("puregen_transforms.cleaning.decision.search_set", lambda *given, **settings: 1 / 0)
        second = cleaned(table, tmp_path / "out")
        assert content(tmp_path / "out") == written
        assert second.report == first.report
        assert second.removed["id"][:] == POISONED

    def test_files_that_a_table_names_are_in_the_copy_as_they_are(self, folder, tmp_path):
        dataset = open_source(str(folder))["train"]
        found = cleaned(dataset, tmp_path / "out")
        assert sorted(cells(found.kept)) == sorted(
            data for name, data in images_of(folder).items() if int(name[-7:-4]) not in POISONED
        )

    def test_splits_are_searched_each_on_its_own(self, table, tmp_path):
        splits = DatasetDict({"train": table, "test": table.select(KEPT), "none": table.select([])})
        found = cleaned(splits, tmp_path / "out", flagged="quarantine")
        assert {name: len(rows) for name, rows in found.removed.items()} == {"train": 16, "test": 0, "none": 0}
        assert {name: one.level for name, one in found.report.splits.items()} == {
            "train": "poisoned",
            "test": "nothing found",
        }
        assert {name: len(rows) for name, rows in found.kept.items()} == {"train": len(KEPT), "test": len(KEPT)}
        assert {name: len(rows) for name, rows in open_source(str(tmp_path / "out.quarantine")).items()} == {
            "train": 16
        }
        assert found.report.page == tmp_path / "out.report"

    def test_purified_images_are_those_of_the_purifier(self, table, tmp_path, tiny_checkpoint):
        purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", dtype="float32")
        found = cleaned(table, tmp_path / "out", flagged="purify", purifier=purifier)
        assert len(found.kept) == COUNT
        assert len(found.removed) == 0
        row = POISONED[3]
        assert found.kept[row]["image"].tobytes() == purifier(table[row]["image"]).tobytes()
        assert cells(found.kept.select(KEPT)) == cells(table.select(KEPT))

    def test_a_path_gives_splits(self, folder, tmp_path):
        found = cleaned(folder, tmp_path / "out")
        assert len(found.kept["train"]) == len(KEPT)
        assert len(found.removed["train"]) == len(POISONED)
        in_memory = cleaned(folder)
        assert len(in_memory.kept["train"]) == len(KEPT)


@pytest.mark.parametrize("form", ["folder", "table"])
def test_a_source_is_opened_once_to_be_searched_and_copied(folder, table, tmp_path, monkeypatch, form):
    opened = []

    def count(kind, name):
        before = getattr(kind, name)

        def counted(given, **options):
            opened.append(given)
            return before(given, **options)

        monkeypatch.setattr(kind, name, counted)

    if form == "table":
        table.to_parquet(tmp_path / "set.parquet")
        count(ParquetSplit, "open")
        cleaned(tmp_path / "set.parquet", tmp_path / "out", flagged="quarantine")
        assert opened == [[tmp_path / "set.parquet"]]
    else:
        count(FolderOfImages, "scan")
        cleaned(folder, tmp_path / "out", flagged="quarantine")
        assert opened == [folder, tmp_path / "out"], "and the copy, to give it out"


class TestTorch:
    def test_a_data_set_is_parted_without_a_file(self, pictures):
        found = cleaned(Pairs(pictures))
        assert [found.kept.indices, found.removed.indices] == [KEPT, POISONED]

    def test_a_copy_has_the_samples_the_classes_and_the_transforms(self, folder, tmp_path):
        dataset = ImageFolder(folder, transform=F.pil_to_tensor)
        poisoned = [row for row, (path, _) in enumerate(dataset.samples) if int(path[-7:-4]) in POISONED]
        found = cleaned(dataset, tmp_path / "out", flagged="quarantine")
        assert isinstance(found.kept, PurifiedDataset)
        assert found.removed.indices == poisoned
        kept = [row for row in range(COUNT) if row not in poisoned]
        assert len(found.kept) == len(kept)
        for place in (0, 30, len(kept) - 1):
            image, label = found.kept[place]
            assert (image == dataset[kept[place]][0]).all()
            assert label == dataset[kept[place]][1]
        assert found.kept.classes == dataset.classes
        assert len(PurifiedDataset(tmp_path / "out.quarantine")) == len(poisoned)
        assert not list(problems_of(tmp_path / "out"))

    def test_inside_of_a_subset(self, pictures, tmp_path):
        found = cleaned(Subset(Pairs(pictures), list(range(COUNT - 1, -1, -1))), tmp_path / "out")
        assert found.removed.indices == [COUNT - 1 - row for row in reversed(POISONED)]
        assert found.kept[0][0].tobytes() == pictures[KEPT[-1]][0].tobytes()

    def test_samples_without_a_label(self, pictures):
        found = cleaned(Pairs([(picture,) for picture, _ in pictures]))
        assert found.removed.indices == POISONED


@pytest.fixture
def unlearnable(monkeypatch):
    """A search that takes the whole set for unlearnable."""
    search = Search(name="stamps", detector=SEARCHES[0].detector, finds="traces", means=UNLEARNABLE)
    monkeypatch.setattr(whole_search, "SEARCHES", (search, SEARCHES[0]))


def test_a_set_made_unlearnable_is_purified_or_refused(unlearnable, table, tmp_path, tiny_checkpoint):
    with pytest.raises(ValueError, match="made unlearnable as a whole: none of its images can be singled out"):
        cleaned(table, tmp_path / "out")
    purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=1, seed=0, device="cpu")
    found = cleaned(table, tmp_path / "out", flagged="purify", purifier=purifier)
    assert len(found.kept) == COUNT
    assert not set(cells(found.kept)) & set(cells(table))


def test_a_person_who_has_looked_at_a_set_made_unlearnable_is_heard(unlearnable, table, tmp_path, tiny_checkpoint):
    decisions = Decisions()
    decisions.decide(hashlib.sha256(cells(table)[POISONED[0]]).hexdigest(), "keep")
    purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=1, seed=0, device="cpu")
    found = cleaned(table, tmp_path / "out", others="purify", purifier=purifier, decisions=decisions)
    assert found.kept["id"][:] == sorted([*KEPT, POISONED[0]])


def test_traces_of_a_set_made_unlearnable_are_weakened_by_the_method_for_it(unlearnable, table, tmp_path):
    found = cleaned(table, tmp_path / "out", others="purify")
    assert sum(one.flagged for one in found.report.splits.values()) == len(POISONED)
    assert len(found.kept) == COUNT, "what a search for poison found is not left out"
    recorded = read_settings(tmp_path / "out/purified.jsonl")["purifier"]
    assert recorded["method"] == "eclipse"
    assert any("eclipse_compensation" in note for note in found.report.notes)
    again = cleaned(table, tmp_path / "out", others="purify")
    assert again.report.notes == found.report.notes[-1:], "a finished copy says so, too"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flagged": "burn"}, "Expected `flagged` out of drop, purify, quarantine, but got 'burn'"),
        ({"others": "drop"}, "Expected `others` out of keep, purify"),
        ({"budget": "1h"}, "Expected `budget` out of 2m"),
        ({"flagged": "quarantine", "output_dir": None}, "Expected an `output_dir`"),
        ({"output_dir": "out.parquet"}, "Expected a folder as `output_dir`"),
        ({"column": "picture"}, "picture"),
        ({"label_column": "class"}, "class"),
        ({"splits": ["test"]}, "Expected splits out of"),
    ],
)
def test_mistakes_are_explained(table, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        clean_dataset(table, **{"output_dir": tmp_path / "out", "budget": "2m", **options})
    assert not list(tmp_path.iterdir())


def test_streams_are_refused(table):
    with pytest.raises(ValueError, match="but got a stream"):
        clean_dataset(table.to_iterable_dataset())

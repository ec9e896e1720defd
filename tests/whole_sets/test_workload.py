"""Parts sized by work, the estimate before it, and the progress during it."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, Features, Image, IterableDataset
from PIL import Image as PILImage

from puregen_transforms import PureGen
from puregen_transforms.data.sources import DatasetSplit
from puregen_transforms.purifier.puregen_config import PureGenConfig
from puregen_transforms.whole_sets import workload
from puregen_transforms.whole_sets.manifest import read_records
from puregen_transforms.whole_sets.part_by_part import purify_copy
from puregen_transforms.whole_sets.plan import copy_of, table_copy
from puregen_transforms.whole_sets.stream_copy import StreamCopy
from puregen_transforms.whole_sets.workload import estimate, part_rows_for
from tests.whole_sets.conftest import content


def rows(*sizes, count=20):
    pictures = [PILImage.new("RGB", size) for size in sizes for _ in range(count)]
    return Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))


def table(*datasets, columns=()):
    tables = {f"split{number}": DatasetSplit(dataset=dataset) for number, dataset in enumerate(datasets)}
    return table_copy(tables, columns)


@pytest.mark.parametrize(
    ("size", "recipe", "expected"),
    [
        ((32, 32), PureGenConfig(), 1024),
        ((64, 64), PureGenConfig(), 256),
        ((224, 224), PureGenConfig(), 20),
        ((224, 224), PureGenConfig(ebm_steps=1500), 2),
        ((512, 512), PureGenConfig(), 4),
        ((2000, 2000), PureGenConfig(), 1),
        ((224, 224), PureGenConfig(method="ddpm", ddpm_solver="ddim", ddpm_inference_steps=1), 208),
        ((224, 224), PureGenConfig(method="jpeg"), 1024),
    ],
)
def test_parts_are_sized_by_pixels_and_network_calls(size, recipe, expected):
    assert part_rows_for(table(rows(size)), recipe) == expected


def test_of_a_large_image_a_part_is_timed(monkeypatch):
    """A clock that ticks once each time it is looked at: what is timed takes a second, whatever its size."""
    ticks = iter(range(1000))
    monkeypatch.setattr(workload.time, "monotonic", lambda: float(next(ticks)))
    purifier = PureGen("jpeg", device="cpu")
    assert workload.seconds_of_an_image(purifier, 1536, most=1) == 1
    assert workload.seconds_of_an_image(purifier, 4 * 1536, most=1) == 16


def test_pixels_are_looked_at_all_over_a_data_set(tmp_path):
    mixed = [PILImage.new("RGB", (32, 32) if row < 10 else (96, 96)) for row in range(20)]
    for row, picture in enumerate(mixed):
        picture.save(tmp_path / f"{row:02d}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    mean = (32 * 32 + 96 * 96) // 2
    assert copy_of(str(tmp_path), tmp_path.parent / "out").row_pixels() == [mean]
    assert table(rows((32, 32), (96, 96))).row_pixels() == [mean]
    assert table(rows((32, 32)), rows((96, 96))).row_pixels() == [96 * 96], "the larger split decides"
    features = Features({"image": Image(), "mask": Image()})
    masked = Dataset.from_dict({"image": mixed[:4], "mask": mixed[-4:]}, features=features)
    both = ("image", "mask")
    assert table(masked, columns=both).row_pixels() == [32 * 32, 96 * 96]
    stream = StreamCopy(masked.to_iterable_dataset(), both)
    assert stream.row_pixels() == [32 * 32, 96 * 96]


def test_a_large_data_set_gets_no_more_files_than_can_be_listed(monkeypatch):
    monkeypatch.setattr(workload, "MOST_CHOSEN", 3)
    assert part_rows_for(table(rows((2000, 2000))), PureGenConfig()) == 7


def stop_at(count):
    def progress(done, total, kept):
        if done >= count:
            raise KeyboardInterrupt

    return progress


class TestRuns:
    @pytest.fixture
    def source(self, pictures, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        for row, picture in enumerate(pictures[:20]):
            picture.save(folder / f"{row:02d}.png")
        return folder

    @pytest.fixture
    def purify(self, source, purifier):
        def purify(destination, **options):
            return purify_copy(copy_of(str(source), destination), destination, purifier, fit=PureGen.fit, **options)

        return purify

    @staticmethod
    def parts(destination):
        return [(record.start, record.stop) for record in read_records(destination / "purified.jsonl")]

    def test_a_part_is_some_work(self, purify, tmp_path, monkeypatch):
        monkeypatch.setattr(workload, "PART_WORK", 6 * 32 * 32 * 2)
        purify(tmp_path / "out")
        assert self.parts(tmp_path / "out") == [(0, 6), (6, 12), (12, 18), (18, 20)]

    def test_a_run_that_is_begun_keeps_its_parts(self, purify, tmp_path, monkeypatch):
        monkeypatch.setattr(workload, "PART_WORK", 6 * 32 * 32 * 2)
        purify(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            purify(tmp_path / "out", progress=stop_at(14))
        monkeypatch.undo()  # as if another version chose otherwise
        said, reports = [], []
        purify(tmp_path / "out", part_rows=7, say=said.append, progress=lambda *report: reports.append(report))
        assert content(tmp_path / "out") == content(tmp_path / "whole")
        assert said[0].startswith("Parts stay at 6 rows, as an earlier run has begun this copy, rather than 7")
        assert "for 8 images of about 32x32 pixels" in said[1], "12 of 20 are done"
        assert reports[-1] == (20, 20, 12)
        before = content(tmp_path / "out")
        outcome = purify(tmp_path / "out", part_rows=3, say=said.append)
        assert outcome.notes == (f"{tmp_path / 'out'} was complete already.",)
        assert said[2].startswith("Parts stay at 6 rows")
        assert content(tmp_path / "out") == before

    def test_wrong_part_rows_are_refused_in_any_case(self, purify, tmp_path):
        purify(tmp_path / "out", part_rows=7)
        for part_rows in (0, -3):
            with pytest.raises(ValueError, match="at least 1 row"):
                purify(tmp_path / "out", part_rows=part_rows)
            with pytest.raises(ValueError, match="at least 1 row"):
                purify(tmp_path / "other", part_rows=part_rows)

    def test_progress_moves_with_every_batch(self, source, tiny_checkpoint, tmp_path):
        purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", batch_size=3)
        reports = []
        purify_copy(
            copy_of(str(source), tmp_path / "out"),
            tmp_path / "out",
            purifier,
            fit=PureGen.fit,
            progress=lambda *report: reports.append(report),
        )
        at_once = 3 * torch.get_num_threads()
        assert [report[0] for report in reports] == [*range(0, 20, at_once), 20]
        assert reports[-1] == (20, 20, 0)


def test_an_estimate_counts_every_network_call(tiny_checkpoint, tiny_ddpm):
    purifier = PureGen(
        "adaptive", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, energy_threshold=0.0, device="cpu"
    )
    langevin, first, second = (stage.stages[0] for stage in purifier.purifier.stages)
    short, factor = workload._shortened(langevin)
    assert (short.config.steps, factor) == (3, 50)
    for stage, calls in ((first, 75), (second, 150)):
        short, factor = workload._shortened(stage)
        assert (short.config.inference_steps, factor) == (1, calls)
    found = estimate(table(rows((40, 40))), purifier, finished=5, processes=2)
    assert (found.images, found.side) == (15, 40)
    assert found.seconds > 0
    assert str(found).endswith("for 15 images of about 40x40 pixels.")


def test_no_estimate_where_nothing_can_be_measured(purifier):
    assert estimate(table(rows((3, 2))), purifier) is None, "too small for the network: the work says so"
    unknown = IterableDataset.from_generator(lambda: iter(rows((40, 40))), features=Features({"image": Image()}))
    assert "for every 1,000 images" in str(estimate(StreamCopy(unknown), purifier))

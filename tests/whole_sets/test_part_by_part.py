"""A copy that was begun is gone on with, or refused where the data, the settings or the weights are others."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.whole_sets.manifest import read_settings
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from tests.conftest import make_checkpoint
from tests.whole_sets.conftest import content, pixels, stop_after
from tests.whole_sets.samples import Samples


def begin(source, purifier, tmp_path, monkeypatch, **options):
    """A run that stops after one part of three."""
    stop_after(monkeypatch, parts=1)
    with pytest.raises(KeyboardInterrupt):
        purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=20, **options)
    monkeypatch.undo()
    assert (tmp_path / "out.unfinished").exists()
    assert not (tmp_path / "out").exists()


def go_on(source, purifier, tmp_path, **options):
    return purify_dataset(source, purifier, output_dir=tmp_path / "out", part_rows=20, **options)


def counting(seen):
    forward = PureGen.forward

    def counted(self, *inputs):
        seen.append(len(inputs[0]))
        return forward(self, *inputs)

    return counted


def test_only_what_is_missing_is_done(table, purifier, tmp_path, monkeypatch):
    purify_dataset(table, purifier, output_dir=tmp_path / "whole", part_rows=20)
    begin(table, purifier, tmp_path, monkeypatch)
    seen = []
    monkeypatch.setattr(PureGen, "forward", counting(seen))
    go_on(table, purifier, tmp_path)
    assert sum(seen) == 40
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_complete_copy_is_opened(table, purifier, tmp_path, monkeypatch):
    go_on(table, purifier, tmp_path)
    seen = []
    monkeypatch.setattr(PureGen, "forward", counting(seen))
    assert len(go_on(table, purifier, tmp_path)) == 60
    assert not seen


def test_a_seed_that_was_drawn_is_kept(table, tiny_checkpoint, tmp_path, monkeypatch):
    unseeded = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, device="cpu", dtype="float32")
    begin(table, unseeded, tmp_path, monkeypatch)
    clean = go_on(table, unseeded, tmp_path)
    seed = read_settings(tmp_path / "out/purified.jsonl")["purifier"]["seed"]
    seeded = PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, device="cpu", dtype="float32", seed=seed)
    assert np.array_equal(pixels(clean["image"][:]), pixels(seeded(table["image"][:])))


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_by_name(table, purifier, tiny_checkpoint, tmp_path, monkeypatch, finished):
    if finished:
        go_on(table, purifier, tmp_path)
    else:
        begin(table, purifier, tmp_path, monkeypatch)
    other = PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0, device="cpu", dtype="float32")
    with pytest.raises((ValueError, FileExistsError), match="ebm_steps was 2 and is 3"):
        go_on(table, other, tmp_path)
    with pytest.raises((ValueError, FileExistsError), match="rows, train was 60 and is 59"):
        go_on(table.select(range(59)), purifier, tmp_path)
    go_on(table, purifier, tmp_path)


def test_other_weights_are_refused(table, purifier, tmp_path, monkeypatch):
    begin(table, purifier, tmp_path, monkeypatch)
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="weights, ebm was"):
        go_on(table, PureGen(checkpoint=other, ebm_steps=2, seed=0, device="cpu", dtype="float32"), tmp_path)


def test_the_same_weights_elsewhere_are_the_same(table, purifier, tmp_path, monkeypatch):
    begin(table, purifier, tmp_path, monkeypatch)
    moved = make_checkpoint(tmp_path / "moved")
    go_on(table, PureGen(checkpoint=moved, ebm_steps=2, seed=0, device="cpu", dtype="float32"), tmp_path)


def test_a_changed_pixel_in_a_finished_part_is_noticed(pictures, table, purifier, tmp_path, monkeypatch):
    begin(table, purifier, tmp_path, monkeypatch)
    changed = [picture.copy() for picture in pictures]
    changed[3].putpixel((0, 0), (1, 2, 3))
    features = table.features
    other = Dataset.from_dict({**table.to_dict(), "image": changed}, features=features)
    with pytest.raises(ValueError, match="rows 0 to 19 of split 'train' have changed"):
        go_on(other, purifier, tmp_path)


def test_a_complete_copy_of_other_pixels_is_not_opened(pictures, table, purifier, tmp_path):
    go_on(table, purifier, tmp_path)
    changed = [picture.copy() for picture in pictures]
    changed[-1].putpixel((0, 0), (1, 2, 3))
    other = Dataset.from_dict({**table.to_dict(), "image": changed}, features=table.features)
    with pytest.raises(FileExistsError, match="rows 40 to 59 of split 'train' have changed"):
        go_on(other, purifier, tmp_path)


def test_a_process_that_outlived_its_run_stops(table, purifier, tmp_path, monkeypatch):
    add = UnfinishedCopy.add

    def begun_anew_meanwhile(job, record):
        add(job, record)
        settings = job.earlier()
        (job.folder / "job.json").write_text(json.dumps({**settings, "on_error": "skip"}))

    monkeypatch.setattr(UnfinishedCopy, "add", begun_anew_meanwhile)
    with pytest.raises(BlockingIOError, match="another run has begun"):
        purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=20)
    assert [record.name for record in UnfinishedCopy(tmp_path / "out").records()] == ["train-00000-of-00003"]


def test_other_images_than_before_are_noticed(purifier, tmp_path, monkeypatch):
    level = 0.25
    source = Samples(lambda row: (torch.full((3, 32, 32), level), row), rows=60)
    begin(source, purifier, tmp_path, monkeypatch)
    level = 0.5
    with pytest.raises(ValueError, match="Random transforms"):
        go_on(source, purifier, tmp_path)


def test_a_damaged_part_is_done_again(table, purifier, tmp_path, monkeypatch):
    purify_dataset(table, purifier, output_dir=tmp_path / "whole", part_rows=20)
    begin(table, purifier, tmp_path, monkeypatch)
    part = min((tmp_path / "out.unfinished/result/data").iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    go_on(table, purifier, tmp_path)
    assert content(tmp_path / "out") == content(tmp_path / "whole")

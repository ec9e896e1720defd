"""A copy under way: one run at a time, and nothing of somebody else's is taken up."""

from __future__ import annotations

import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from puregen_transforms import purify_dataset
from puregen_transforms.whole_sets.dataset_copy import PartRecord
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy, skipped_path
from tests.whole_sets.test_many_processes import command


def test_another_run_at_the_same_place_is_refused(table, purifier, tmp_path):
    with UnfinishedCopy(tmp_path / "out").locked(), pytest.raises(BlockingIOError, match="another run"):
        purify_dataset(table, purifier, output_dir=tmp_path / "out")
    purify_dataset(table, purifier, output_dir=tmp_path / "out")


def test_a_lock_is_let_go_of(source, purify, tmp_path):
    with UnfinishedCopy(tmp_path / "out").locked():
        refused = purify(source, tmp_path / "out")
        assert refused.exit_code == 1
        assert "another run is at it" in refused.stderr
    assert purify(source, tmp_path / "out").exit_code == 0


def test_a_run_that_is_just_dying_is_waited_for(table, purifier, tmp_path):
    copy = UnfinishedCopy(tmp_path / "out")
    copy.folder.mkdir()
    lock = FileLock(copy.folder / "lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, partial(lock.release, force=True)).start()
    purify_dataset(table, purifier, output_dir=tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_runs_at_one_destination(source, purify, tiny_checkpoint, tmp_path):
    first, second = (
        subprocess.Popen(
            command(source, tmp_path / "out", tiny_checkpoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    )
    ends = [(run.communicate(timeout=150), run.returncode) for run in (first, second)]
    assert sorted(code for _, code in ends)[0] == 0
    for (output, errors), code in ends:
        if code:
            assert b"another run is at it" in errors
        else:
            assert b"Purified 24 images" in output
    assert len(list((tmp_path / "out").glob("*.png"))) == 24
    assert purify(source, tmp_path / "out", "--steps", 100, "--part-rows", 1024).exit_code == 0, "and it is complete"


SETTINGS = {"purifier": {"seed": 0, "energy_threshold": None}, "source": {"rows of a part": 4}}


def test_what_is_finished_is_there_for_the_next_run(tmp_path):
    copy = UnfinishedCopy(tmp_path / "out")
    with copy.locked():
        copy.begin(SETTINGS)
        name = "a.txt"
        record = PartRecord(name="0", rows=1, files={name: copy.files.put(name, b"abc")})
        copy.add(record)
    assert copy.part_rows == 4
    assert copy.record("0") == record
    assert copy.record("1") is None
    assert copy.is_whole(record)
    (copy.files.folder / name).write_bytes(b"abd")
    assert not copy.is_whole(record)


def test_other_settings_are_refused(tmp_path):
    copy = UnfinishedCopy(tmp_path / "out")
    with copy.locked():
        copy.begin(SETTINGS)
        with pytest.raises(ValueError, match="purifier, seed was 0 and is 1"):
            copy.begin({**SETTINGS, "purifier": {"seed": 1, "energy_threshold": None}})


def test_a_run_that_finished_nothing_leaves_nothing(tmp_path):
    with UnfinishedCopy(tmp_path / "new/out").locked():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["folder", "link", "file"])
def test_what_somebody_else_has_put_there_is_not_taken_up(tmp_path, name):
    place = tmp_path / "out.unfinished"
    if name == "folder":
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    elif name == "link":
        place.symlink_to(tmp_path)
    else:
        place.write_text("mine")
    with (
        pytest.raises(FileExistsError, match="an earlier run of yours"),
        UnfinishedCopy(tmp_path / "out").locked(),
    ):
        raise AssertionError("begun")
    assert place.exists()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"source": {}, "purifier": 3}', '{"source": {}, "purifier": {"seed": 1}}']
)
def test_damaged_settings_are_explained(tmp_path, content):
    copy = UnfinishedCopy(tmp_path / "out")
    copy.folder.mkdir()
    (copy.folder / "job.json").write_text(content)
    with pytest.raises(ValueError, match=r"job\.json, but it is damaged.*Remove"):
        copy.earlier()


def test_files_beside_a_single_file_are_not_written_over(tmp_path):
    (tmp_path / "out.skipped.json").write_text("mine")
    copy = UnfinishedCopy(tmp_path / "out.parquet")
    with copy.locked(), pytest.raises(FileExistsError, match=r"Expected no .*out\.skipped\.json"):
        copy.begin(SETTINGS)
    assert skipped_path(Path("a/out")) == Path("a/out/skipped.json")

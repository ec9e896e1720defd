"""What goes wrong outside: each ends in an error that says what, and the run goes on when the cause is gone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.main import app
from puregen_transforms.data.sources import DatasetSplit
from puregen_transforms.whole_sets.part_by_part import purify_copy
from puregen_transforms.whole_sets.plan import table_copy
from puregen_transforms.whole_sets.storage import Storage
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from tests.whole_sets.conftest import content
from tests.whole_sets.test_many_processes import command


@pytest.fixture
def source(pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for row, picture in enumerate(pictures[:24]):
        picture.save(folder / f"{row:02d}.png")
    return folder


@pytest.fixture
def purify(tiny_checkpoint):
    def purify(source, destination, *options):
        settings = ("--checkpoint", tiny_checkpoint, "--steps", 2, "--device", "cpu", "--dtype", "float32")
        arguments = ("purify", source, destination, "--part-rows", 4, *settings, *options)
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return purify


@pytest.fixture
def whole(source, purify, tmp_path):
    assert purify(source, tmp_path / "whole").exit_code == 0
    return content(tmp_path / "whole")


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 KiB; more is had by `disk(size)`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )

    if mount("size=64k").returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", folder], check=True)


def after_parts(monkeypatch, count, action):
    """Do something when so many parts are finished."""
    add, left = UnfinishedCopy.add, [count]

    def adding(self, record):
        add(self, record)
        left[0] -= 1
        if not left[0]:
            action()

    monkeypatch.setattr(UnfinishedCopy, "add", adding)


def test_full_disk(source, purify, whole, disk, tmp_path):
    full = purify(source, tmp_path / "disk/out")
    assert full.exit_code == 1
    assert "No space left on device" in full.stderr
    assert "the same command goes on from there" in full.stderr
    assert not (tmp_path / "disk/out").exists()
    parts = len(list((tmp_path / "disk/out.unfinished/parts").iterdir()))
    assert 0 < parts < 6
    disk("size=10m")
    assert purify(source, tmp_path / "disk/out").exit_code == 0
    assert content(tmp_path / "disk/out") == whole


def test_a_disk_that_is_surely_too_small_is_said_before_the_work(source, purify, disk, tmp_path):
    (source / "film.bin").write_bytes(bytes(250_000))
    refused = purify(source, tmp_path / "disk/out")
    assert refused.exit_code == 1
    assert re.search(
        r"takes about 3[0-9]{2} kB, but only [0-9]{2} kB are free on the disk of .*/disk\b", refused.stderr
    )
    assert list((tmp_path / "disk").iterdir()) == []
    disk("size=200k")
    warned = purify(source, tmp_path / "disk/out")
    assert "The copy may not fit: it takes about 3" in warned.stderr
    disk("size=10m")
    again = purify(source, tmp_path / "disk/out")
    assert again.exit_code == 0
    assert "may not fit" not in again.stderr


@pytest.mark.parametrize(("name", "copies"), [("out", 1), ("out.parquet", 2)])
def test_the_room_for_tables_is_estimated_by_storing_some_images(table, tmp_path, name, copies):
    source = table_copy({"train": DatasetSplit(dataset=table)}, ())
    purifier = PureGen("jpeg", jpeg_quality=90, seed=0)
    purify_copy(source, tmp_path / name, purifier, fit=lambda purifier: None)
    files = [tmp_path / name] if copies == 2 else list((tmp_path / name / "data").iterdir())
    written = sum(path.stat().st_size for path in files)
    assert source.stored_bytes() == pytest.approx(written, rel=0.25)
    smaller = replace(source, storage=Storage(image_format="jpeg"))
    assert smaller.stored_bytes() < 0.7 * source.stored_bytes()


def test_a_single_file_needs_room_for_its_parts_too(source, purify, disk, table, tmp_path):
    table.select(range(24)).to_parquet(tmp_path / "in.parquet")
    disk("size=100k")
    for name, is_warned in (("out.parquet", True), ("out", False)):
        assert ("may not fit" in purify(tmp_path / "in.parquet", tmp_path / "disk" / name).stderr) is is_warned
        shutil.rmtree(tmp_path / f"disk/{name}.unfinished", ignore_errors=True)


def test_disk_that_becomes_read_only(source, purify, whole, disk, tmp_path, monkeypatch):
    disk("size=10m")
    files = tmp_path / "disk/out.unfinished"

    def becomes_read_only():
        # The lock is open for writing, so that the disk as a whole cannot be made read-only.
        subprocess.run(["mount", "--bind", files, files], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", files], check=True)

    after_parts(monkeypatch, 2, becomes_read_only)
    stopped = purify(source, tmp_path / "disk/out")
    subprocess.run(["umount", files], check=True)
    monkeypatch.undo()
    assert stopped.exit_code == 1
    assert "Read-only file system" in stopped.stderr
    assert disk("ro").returncode == 0
    before = purify(source, tmp_path / "disk/out")
    assert before.exit_code == 1
    assert "Expected to be able to write in" in before.stderr
    disk("rw")
    assert purify(source, tmp_path / "disk/out").exit_code == 0
    assert content(tmp_path / "disk/out") == whole


def test_a_file_that_vanishes(source, purify, whole, tmp_path, monkeypatch):
    picture = (source / "17.png").read_bytes()
    after_parts(monkeypatch, 2, (source / "17.png").unlink)
    stopped = purify(source, tmp_path / "out")
    monkeypatch.undo()
    assert stopped.exit_code == 1
    assert "17.png" in stopped.stderr
    assert "No such file" in stopped.stderr
    assert not (tmp_path / "out").exists()
    (source / "17.png").write_bytes(picture)
    assert purify(source, tmp_path / "out").exit_code == 0
    assert content(tmp_path / "out") == whole


def test_an_image_that_is_damaged_meanwhile(source, purify, whole, tmp_path, monkeypatch):
    picture = (source / "17.png").read_bytes()
    after_parts(monkeypatch, 2, lambda: (source / "17.png").write_bytes(picture[:200]))
    stopped = purify(source, tmp_path / "out")
    monkeypatch.undo()
    assert stopped.exit_code == 1
    assert "17.png" in stopped.stderr
    skipping = purify(source, tmp_path / "other", "--on-error", "skip")
    assert skipping.exit_code == 3
    assert len(list((tmp_path / "other").glob("*.png"))) == 23
    (source / "17.png").write_bytes(picture)
    assert purify(source, tmp_path / "out").exit_code == 0
    assert content(tmp_path / "out") == whole


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


def test_a_lock_is_let_go_of(source, purify, tmp_path):
    with UnfinishedCopy(tmp_path / "out").locked():
        refused = purify(source, tmp_path / "out")
        assert refused.exit_code == 1
        assert "another run is at it" in refused.stderr
    assert purify(source, tmp_path / "out").exit_code == 0

"""What goes wrong outside: each ends in an error that says what, and the run goes on when the cause is gone."""

from __future__ import annotations

import subprocess

import pytest
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.distributed.job import Job
from tests.distributed.conftest import content
from tests.distributed.test_many_processes import command


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
    add, left = Job.add, [count]

    def adding(self, record):
        add(self, record)
        left[0] -= 1
        if not left[0]:
            action()

    monkeypatch.setattr(Job, "add", adding)


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
    with Job(tmp_path / "out").locked():
        refused = purify(source, tmp_path / "out")
        assert refused.exit_code == 1
        assert "another run is at it" in refused.stderr
    assert purify(source, tmp_path / "out").exit_code == 0

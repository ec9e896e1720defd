"""What goes wrong outside: each ends in an error that says what, and the run goes on when the cause is gone."""

from __future__ import annotations

import subprocess

from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from tests.whole_sets.conftest import content


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

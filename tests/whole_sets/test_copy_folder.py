"""Files of a copy get their name when they are whole."""

from __future__ import annotations

import hashlib

import pytest

from puregen_transforms.whole_sets.copy_folder import CopyFolder


@pytest.fixture
def files(tmp_path):
    for name in ("files", "scratch"):
        (tmp_path / name).mkdir()
    return CopyFolder(tmp_path / "files", tmp_path / "scratch")


def test_a_file_is_written_and_hashed(files):
    assert files.put("a.txt", b"abc") == hashlib.sha256(b"abc").hexdigest()
    files.settle(["a.txt"])
    assert (files.folder / "a.txt").read_bytes() == b"abc"
    assert not list(files.scratch.iterdir())


def test_what_was_interrupted_has_no_name(files):
    (files.folder / "a.txt").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), files.writing("a.txt") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert (files.folder / "a.txt").read_bytes() == b"before"
    assert not list(files.scratch.iterdir())


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "a/../../b"])
def test_no_name_leads_out_of_the_folder(files, name):
    with pytest.raises(ValueError):
        files.put(name, b"abc")
    with pytest.raises(ValueError):
        files.settle([name])
    assert not list(files.folder.parent.rglob("*.txt"))

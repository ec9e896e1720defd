"""Archives with images inside are known by their content, whatever packs them."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from puregen_transforms.data import archives
from puregen_transforms.data.archives import archives_images

KINDS = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2", "a.tar.xz": "w:xz"}


def write_tar(path, inside, mode="w"):
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo(inside)
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))


def holds_images(path):
    return archives_images(path, path.read_bytes()[:16])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("inside", "expected"), [("photos/cat.JPG", True), ("notes.txt", False)])
def test_tar_files_packed_or_not(tmp_path, name, inside, expected):
    write_tar(tmp_path / name, inside, KINDS[name])
    assert holds_images(tmp_path / name) is expected


@pytest.mark.parametrize(("inside", "expected"), [("cat.png", True), ("cat.txt", False)])
def test_zip_files_under_any_name(tmp_path, inside, expected):
    with zipfile.ZipFile(tmp_path / "a.docx", "w") as archive:
        archive.writestr(inside, b"abc")
    assert holds_images(tmp_path / "a.docx") is expected


def test_what_is_larger_than_can_be_looked_through_is_refused(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", "cat.txt")
    monkeypatch.setattr(archives, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"at most 100 bytes when unpacked.*a\.tar is larger"):
        holds_images(tmp_path / "a.tar")

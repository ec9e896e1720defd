"""Rows in memory, and in a file that is mapped."""

import errno
import os
import subprocess
import sys
import tempfile

import pytest
import torch

from puregen_transforms.data import mapped
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.mapped import (
    changed_rows,
    copied_rows,
    empty_images,
    empty_rows,
    gathered,
    is_in_file,
    parts_of,
    stacked_images,
)


@pytest.fixture(params=[0, 2**26], ids=["in a file", "in memory"])
def anywhere(request, monkeypatch, tmp_path):
    """A folder for temporary files, in which there is nothing to be seen."""
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", request.param)
    monkeypatch.setattr(mapped, "_BYTES_AT_ONCE", 9 * 32**2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_rows_are_gathered_in_any_order(anywhere):
    rows = empty_rows((100, 5), torch.float32)
    rows.copy_(torch.arange(500).view(100, 5))
    for count in (0, 1, 32, 33, 90):
        numbers = torch.randint(40, (count,), generator=torch.Generator().manual_seed(count))
        assert torch.equal(gathered(rows[7:60], numbers), torch.arange(500.0).view(100, 5)[7:60][numbers])


def test_images_are_stacked_copied_and_written(anywhere, images):
    stacked = stacked_images(iter(images[:10]))
    assert torch.equal(stacked, images[:10])
    stacked[2] = 7
    assert int(stacked[2].sum()) == 7 * stacked[2].numel(), "it can be written"
    assert torch.equal(copied_rows(stacked, torch.tensor([9, 0, 4, 9])), images[[9, 0, 4, 9]])
    copy = copied_rows(stacked)
    copy[0] = 255 - copy[0]
    assert torch.equal(stacked[0], images[0])
    assert changed_rows(copy, images[:10]).tolist() == [True, False, True] + [False] * 7
    assert not list(anywhere.iterdir())


def test_room_is_black_and_may_be_none(anywhere):
    room = empty_images(5, (32, 48))
    assert (room.shape, room.dtype, int(room.sum())) == ((5, 3, 32, 48), torch.uint8, 0)
    assert changed_rows(empty_images(1, (8, 8))[:0], empty_images(1, (8, 8))[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_rows_of_any_kind_are_kept_in_the_folder_that_is_named(dtype, monkeypatch, tmp_path):
    monkeypatch.setattr(mapped, "LARGEST_IN_MEMORY", 2**10)
    rows = empty_rows((50, 6, 4), dtype, folder=tmp_path / "state")
    assert is_in_file(rows.flatten(1)[7:])
    assert not is_in_file(empty_rows((4, 4), dtype))
    for part in parts_of(rows, 7):
        rows[part] = torch.arange(50, dtype=dtype)[part, None, None]
    copy = copied_rows(rows, torch.tensor([49, 0, 7] * 20))
    assert (copy.dtype, copy[:, 5, 3].tolist()) == (dtype, [49, 0, 7] * 20)
    assert mapped.folder_of(copy) == tmp_path / "state"
    assert list((tmp_path / "state").iterdir()) == [], "the file has no name, and goes with the process"


def test_a_subset_of_all_in_order_is_the_set_itself(images):
    whole = ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("a",))
    assert whole.subset(torch.ones(len(images), dtype=torch.bool)) is whole
    backwards = whole.subset(torch.arange(len(images)).flip(0))
    assert torch.equal(backwards.images, images.flip(0))
    assert len(whole.subset(torch.zeros(len(images), dtype=torch.bool))) == 0


GROWTH = """
import resource, torch
from puregen_transforms.data.mapped import bytes_of, changed_rows, copied_rows, empty_images, parts_of

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
images = empty_images(1500, (224, 224))
for part in parts_of(images):
    images[part] = 7
copy = copied_rows(images, torch.arange(1500).flip(0))
copy[3] = 8
assert changed_rows(copy, images).nonzero().flatten().tolist() == [3]
assert sum(len(piece) for piece in bytes_of(copy)) == 1500
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_two_sets_of_226_mb_are_looked_at_in_less_memory_than_half_of_one():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_a_full_disk_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        OSError,
        match=f"room for a large set of images in .*{tmp_path}, but it is full. Make room there, or name another",
    ):
        empty_images(1000, (224, 224))

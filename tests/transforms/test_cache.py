"""`PureGen(cache=...)`."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader

from puregen_transforms import ImageCache, PureGen
from puregen_transforms.transforms.cache import CachedImages, content_keys


@pytest.fixture
def make(tiny_checkpoint, tmp_path):
    def make(**options):
        options = {
            "ebm_steps": 2,
            "seed": 0,
            "device": "cpu",
            "dtype": "float32",
            "cache": tmp_path / "cache",
            **options,
        }
        return PureGen(checkpoint=tiny_checkpoint, **options)

    return make


@pytest.fixture
def plain(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", dtype="float32")


@pytest.fixture
def purified(monkeypatch):
    """How many images went through the networks."""
    from puregen_transforms.purifier.pipeline import Purifier

    seen, call = [], Purifier.__call__

    def counted(self, images, **options):
        seen.append(len(images))
        return call(self, images, **options)

    monkeypatch.setattr(Purifier, "__call__", counted)
    return seen


def test_an_image_is_purified_once(make, plain, images, purified):
    expected = plain(images[:6])
    purified.clear()
    assert torch.equal(make()(images[:4]), expected[:4])
    assert torch.equal(make()(images[2:6]), expected[2:])
    assert torch.equal(make()(images[:6]), expected)
    assert purified == [4, 2]


def test_every_form_of_an_image_is_the_same_image(make, plain, images, purified):
    make()(images[:2])
    purified.clear()
    assert torch.allclose(make()(images[:2].float() / 255), plain(images[:2]).float() / 255)
    assert sum(purified) == 2, "of the plain one"


def test_other_settings_do_not_meet(make, images):
    first, other = make()(images[:2]), make(ebm_steps=3)(images[:2])
    assert not torch.equal(first, other)
    assert torch.equal(make()(images[:2]), first)
    assert torch.equal(make(ebm_steps=3)(images[:2]), other)


def test_without_a_seed_the_first_result_stays(make, images):
    assert torch.equal(make(seed=None)(images[:2]), make(seed=None)(images[:2]))


def test_pixels_of_other_sizes_do_not_meet():
    wide, high = torch.zeros(1, 3, 16, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 16, dtype=torch.uint8)
    assert content_keys(wide) != content_keys(high)


def test_it_pickles_and_workers_share_it(make, images, purified):
    purify = pickle.loads(pickle.dumps(make()))
    data = [(image, 0) for image in images[:8]]
    loader = DataLoader(Purified(data, purify), batch_size=4, num_workers=2)
    first = torch.cat([batch for batch, _ in loader])
    purified.clear()
    assert torch.equal(make()(images[:8]), first)
    assert not purified


class Purified(torch.utils.data.Dataset):
    def __init__(self, data, purify):
        self.data, self.purify = data, purify

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, label = self.data[index]
        return self.purify(image), label


class TestSize:
    def fill(self, cache, count, first=0):
        for index in range(first, first + count):
            cache.put({index.to_bytes(16, "big"): os.urandom(3072)})

    def kept(self, cache, count, first=0):
        return len(cache.get([index.to_bytes(16, "big") for index in range(first, first + count)]))

    def test_it_stops_growing_and_keeps_what_it_has(self, tmp_path):
        cache = CachedImages(ImageCache(tmp_path, max_bytes=2**20), "a")
        self.fill(cache, 600)
        assert (tmp_path / "purified.sqlite").stat().st_size <= 2**20
        kept = self.kept(cache, 600)
        assert 100 < kept < 400
        assert self.kept(cache, kept) == kept, "the first ones"

    def test_images_of_other_settings_make_room(self, tmp_path):
        self.fill(CachedImages(ImageCache(tmp_path, max_bytes=2**20), "a"), 600)
        now = CachedImages(ImageCache(tmp_path, max_bytes=2**20), "b")
        self.fill(now, 200)
        assert self.kept(now, 200) == 200
        assert (tmp_path / "purified.sqlite").stat().st_size <= 2**20

    @pytest.mark.parametrize("size", [10, 2.5e6, True])
    def test_a_wrong_size_is_an_error(self, tmp_path, size):
        with pytest.raises(ValueError, match="`max_bytes` to be an integer of at least 1048576"):
            ImageCache(tmp_path, max_bytes=size)

    def test_the_size_asked_for_holds_in_workers_too(self, make, images, tmp_path):
        purify = make(cache=ImageCache(tmp_path / "small", max_bytes=2**20))
        again = pickle.loads(pickle.dumps(purify))
        assert again.cache == purify.cache == ImageCache(str(tmp_path / "small"), 2**20)
        noise = torch.randint(256, (600, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        for part in noise.split(100):
            again(part)
        assert (tmp_path / "small/purified.sqlite").stat().st_size <= 2**20
        assert torch.equal(purify(noise[:2]), make()(noise[:2]))


def test_a_folder_is_a_cache_of_the_default_size(make, tmp_path):
    assert make().cache == ImageCache(tmp_path / "cache")
    assert ImageCache("folder").max_bytes == 10 * 2**30


def test_the_hubs_cache_is_another(tiny_checkpoint, images, tmp_path):
    purify = PureGen("jpeg", cache_dir=tmp_path / "hub")
    purify(images[:1])
    assert purify.cache is None
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_cache_is_explained(make, images, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/purified.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(OSError, match="purified.sqlite"):
        make()(images[:1])


WRITE = """
import os, sys
from pathlib import Path
from puregen_transforms.transforms.cache import CachedImages, ImageCache
cache = CachedImages(ImageCache(Path(sys.argv[1])), "a")
for index in range(int(sys.argv[2]), 1_000_000, 2):
    cache.put({index.to_bytes(16, "big"): index.to_bytes(4, "big") * 768})
    if index < 4:
        print("going", flush=True)
"""


OPEN = """
import sys
from pathlib import Path
from puregen_transforms.transforms.cache import CachedImages, ImageCache
for number in range(40):
    CachedImages(ImageCache(Path(sys.argv[1]) / str(number)), "digest").put({b"key": b"pixels"})
"""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_workers_may_open_a_new_cache_at_once(tmp_path, count):
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(count)]
    problems = [worker.communicate()[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * count, problems


@pytest.mark.timeout(120)
@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_two_writers_killed_leave_whole_images(tmp_path, times):
    for _ in range(times):
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path), str(first)], stdout=subprocess.PIPE)
            for first in (0, 1)
        ]
        for writer in writers:
            assert writer.stdout.readline() == b"going\n"
        time.sleep(0.3)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
    cache = CachedImages(ImageCache(tmp_path), "a")
    found = cache.get([index.to_bytes(16, "big") for index in range(100_000)])
    assert len(found) > 10
    assert all(pixels == key[-4:] * 768 for key, pixels in found.items())
    database, _ = cache._opened()
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)

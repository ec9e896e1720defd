"""Photographs of clothing, through every way in: the same pixels, labels, names and order come out."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath

import numpy as np
import pytest
from datasets import Dataset, Image, load_dataset
from PIL import Image as PILImage
from torchvision.datasets import ImageFolder

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.sources import open_source
from tests.cli.files import put
from tests.conftest import SHARED_DATA

CLOTHING = SHARED_DATA / "clothing-test.parquet"
PURIFIER = PureGen("jpeg", jpeg_quality=75)

pytestmark = pytest.mark.skipif(not CLOTHING.exists(), reason="needs the photographs of clothing")


class Photographs:
    """Photographs with their labels and names, as `rows`, and what comes of them.

    Args:
        every: takes one row out of so many.
        home: folder for the files.
    """

    def __init__(self, every, home):
        table = Dataset.from_parquet(str(CLOTHING), cache_dir=str(home / "cache"))
        self.rows = table.select(range(0, len(table), every))
        self.home = home
        self.stored = [
            (PurePosixPath(row["image"]["path"]).stem, row["label"], row["image"]["bytes"])
            for row in self.rows.cast_column("image", Image(decode=False))
        ]
        self.classes = sorted({f"class {label}" for _, label, _ in self.stored})

    def expected(self, *, by_folder=False):
        """Name, label and pixels of each row; in a folder, rows are sorted by class and name."""
        rows = sorted((label, name, data) for name, label, data in self.stored) if by_folder else None
        stored = [(name, label, data) for label, name, data in rows] if rows else self.stored
        for name, label, data in stored:
            yield name, label, seen(PURIFIER(PILImage.open(io.BytesIO(data))))

    def folder(self):
        for name, label, data in self.stored:
            put(self.home / f"folder/class {label}/{name}.jpg", data)
        return self.home / "folder"

    def shards(self):
        half = len(self.stored) // 2
        for number, stored in enumerate((self.stored[:half], self.stored[half:])):
            with tarfile.open(self.home / f"{number}.tar", "w") as shard:
                for name, label, data in stored:
                    for suffix, content in ((".jpg", data), (".cls", str(label).encode())):
                        member = tarfile.TarInfo(name + suffix)
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
        files = [str(self.home / f"{number}.tar") for number in range(2)]
        return load_dataset("webdataset", data_files={"train": files}, split="train", streaming=True)


def seen(image):
    return image.mode, image.size, image.tobytes()


def through_a_folder(photographs, out, **options):
    clean = purify_dataset(photographs.folder(), PURIFIER, output_dir=out, **options)["train"]
    paths = clean.cast_column("image", Image(decode=False))["image"]
    assert clean.features["label"].names == photographs.classes
    labels = [int(clean.features["label"].int2str(label).split()[1]) for label in clean["label"]]
    names = [PurePosixPath(cell["path"]).stem for cell in paths]
    return zip(names, labels, clean["image"], strict=True)


def of_table(rows):
    for row, cell in zip(rows, rows.cast_column("image", Image(decode=False)), strict=True):
        yield PurePosixPath(cell["image"]["path"]).stem, row["label"], row["image"]


def through_parquet(photographs, out):
    photographs.rows.to_parquet(photographs.home / "in.parquet")
    return of_table(purify_dataset(photographs.home / "in.parquet", PURIFIER, output_dir=out)["train"])


def through_a_saved_data_set(photographs, out):
    photographs.rows.save_to_disk(photographs.home / "saved")
    return of_table(purify_dataset(photographs.home / "saved", PURIFIER, output_dir=out)["train"])


def through_a_stream(photographs, out):
    stream = photographs.rows.to_iterable_dataset(num_shards=2)
    purify_dataset(stream, PURIFIER, output_dir=out, part_rows=16)
    return of_table(open_source(str(out))["train"])


def through_tar_shards(photographs, out):
    purify_dataset(photographs.shards(), PURIFIER, output_dir=out, part_rows=16)
    for row in open_source(str(out))["train"]:
        yield row["__key__"], row["cls"], row["jpg"]


def through_a_torch_data_set(photographs, out):
    source = ImageFolder(str(photographs.folder()))
    clean = purify_dataset(source, PURIFIER, output_dir=out)
    assert clean.classes == photographs.classes
    assert clean.targets == source.targets
    names = [PurePosixPath(path).stem for path, _ in source.samples]
    for name, (image, label) in zip(names, clean, strict=True):
        yield name, int(clean.classes[label].split()[1]), image


WAYS = [
    *(through_a_folder, through_parquet, through_a_saved_data_set, through_a_stream, through_tar_shards),
    through_a_torch_data_set,
]
BY_FOLDER = (through_a_folder, through_a_torch_data_set)


def check(way, photographs):
    found = way(photographs, photographs.home / "out")
    for after, before in zip(found, photographs.expected(by_folder=way in BY_FOLDER), strict=True):
        name, label, image = after
        assert (name, label, seen(image)) == before


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_through_gives_the_same(way, tmp_path):
    check(way, Photographs(12, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_through_gives_the_same_of_all(way, tmp_path):
    check(way, Photographs(1, tmp_path))


def test_kept_names_are_those_of_the_source_and_jpeg_changes_few_levels(tmp_path):
    photographs = Photographs(30, tmp_path)
    kept = through_a_folder(photographs, tmp_path / "out", keep_names=True)
    for (name, label, image), (*_, expected) in zip(kept, photographs.expected(by_folder=True), strict=True):
        assert (tmp_path / f"out/class {label}/{name}.jpg").exists()
        assert image.format == "JPEG"
        before = np.frombuffer(expected[2], np.uint8).reshape(np.asarray(image).shape)
        assert np.abs(before - np.asarray(image, float)).mean() < 2

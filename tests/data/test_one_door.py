"""One source has the same images, order, classes and refusals, whoever opens it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.labelled_source import choose_source
from puregen_transforms.data.sources import iterate_images, load_image_tensor, open_source
from puregen_transforms.whole_sets.plan import copy_of
from puregen_transforms.whole_sets.storage import Storage
from tests.cli.files import encoded, picture, put

SIZE = (32, 32)
PURIFIER = PureGen("jpeg", jpeg_quality=50)


@dataclass
class Expected:
    """What every way in finds: pixels in order, and the name of each class; or the words of a refusal."""

    images: list[PIL.Image.Image] | None = None
    classes: list[str] | None = None
    refusal: str | None = None
    column: str | None = None


def image(number, mode="RGB"):
    return picture(number, SIZE, mode)


def class_called_train(top):
    for place, name in enumerate(("bus", "car", "train")):
        for row in range(2):
            put(top / name / f"{row}.png", encoded(image(2 * place + row)))
    return Expected(images=[image(row) for row in range(6)], classes=["bus", "bus", "car", "car", "train", "train"])


def brackets_in_names(top):
    for place, name in enumerate(("a [1]", "b*")):
        put(top / "photos [2023]" / name / "x[0].png", encoded(image(place)))
    return Expected(images=[image(0), image(1)], classes=["a [1]", "b*"])


def files_named_as_splits(top):
    for place, name in enumerate(("cat/0.png", "cat/test.png", "dog/train.png", "dog/z.png")):
        put(top / name, encoded(image(place)))
    return Expected(images=[image(row) for row in range(4)], classes=["cat", "cat", "dog", "dog"])


def splits_by_folder(top):
    for place, name in enumerate(("Train/cat/a.png", "Train/dog/b.png", "Test/dog/c.png")):
        put(top / name, encoded(image(place)))
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def images_one_folder_further(top):
    for place, name in enumerate(("train/n01/images/a.png", "train/n02/images/b.png", "val/images/c.png")):
        put(top / name, encoded(image(place)))
    return Expected(images=[image(0), image(1)], classes=["n01", "n02"])


def a_folder_around_all(top):
    for place, name in enumerate(("PetImages/cat/a.png", "PetImages/dog/b.png")):
        put(top / name, encoded(image(place)))
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def splits_beside_other_folders(top):
    for place, name in enumerate(("extra/a.png", "test/cat/b.png", "train/cat/c.png", "train/dog/d.png")):
        put(top / name, encoded(image(place)))
    return Expected(images=[image(row) for row in range(4)])


def hidden_files(top):
    put(top / "cat/a.png", encoded(image(0)))
    put(top / "dog/b.png", encoded(image(1)))
    for name in (".DS_Store", "cat/._a.png", ".ipynb_checkpoints/a.png"):
        put(top / name, b"x")
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def names_without_an_ending(top):
    put(top / "cat/a", encoded(image(0)))
    put(top / "dog/b.PNG", encoded(image(1)))
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def turned_by_exif(top):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    put(top / "cat/a.png", encoded(image(0), exif=exif))
    put(top / "dog/b.png", encoded(image(1)))
    return Expected(images=[image(0).transpose(PIL.Image.Transpose.ROTATE_270), image(1)], classes=["cat", "dog"])


def transparent_color(top):
    put(top / "cat/a.png", encoded(image(0), transparency=image(0).getpixel((3, 3))))
    put(top / "dog/b.png", encoded(image(1, "RGBA")))
    clear = PIL.Image.open(top / "cat/a.png").convert("RGBA")
    return Expected(images=[clear, image(1, "RGBA")], classes=["cat", "dog"])


def gray_of_16_bits(top):
    put(top / "cat/a.png", encoded(image(0)))
    put(top / "dog/deep.png", encoded(PIL.Image.fromarray(np.full((32, 32), 30_000, np.uint16))))
    return Expected(refusal=r"deep\.png.*I;16")


def palette(top):
    put(top / "cat/a.png", encoded(image(0)))
    put(top / "dog/drawn.png", encoded(image(1).quantize(16)))
    return Expected(refusal=r"drawn\.png.*'P'")


def animation(top):
    frames = [image(number).convert("P") for number in range(2)]
    put(top / "cat/a.png", encoded(image(0)))
    put(top / "dog/moving.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    return Expected(refusal=r"moving\.gif.*frames")


def tar_shards(top):
    top.mkdir(parents=True)
    with tarfile.open(top / "a-0.tar", "w") as shard:
        member = tarfile.TarInfo("0.png")
        member.size = len(encoded(image(0)))
        shard.addfile(member, io.BytesIO(encoded(image(0))))
    return Expected(refusal=r"a-0\.tar is an archive")


def metadata(top):
    for place, name in enumerate("ab"):
        put(top / f"{name}.png", encoded(image(place)))
    put(top / "metadata.csv", "file_name,label\nb.png,dog\na.png,cat\n")
    return Expected(images=[image(1), image(0)], classes=["dog", "cat"])


def metadata_that_name_masks(top):
    put(top / "a.png", encoded(image(0)))
    put(top / "masks/a.png", encoded(image(1, "L")))
    put(top / "metadata.jsonl", json.dumps({"file_name": "a.png", "mask_file_name": "masks/a.png"}))
    return Expected(refusal=r"\['image', 'mask'\].*--column image")


def an_image_beside_its_mask(top):
    metadata_that_name_masks(top)
    return Expected(images=[image(0)], column="image")


def metadata_with_a_wrong_name(top):
    put(top / "a.png", encoded(image(0)))
    put(top / "metadata.csv", "file_name,text\nA.png,x\n")
    return Expected(refusal=r"metadata\.csv.*no 'A\.png'")


def metadata_that_leave_an_image_out(top):
    put(top / "a.png", encoded(image(0)))
    put(top / "b.png", encoded(image(1)))
    put(top / "metadata.csv", "file_name,text\nb.png,x\n")
    return Expected(images=[image(1), image(0)])


def table(rows, names=("image",), **features):
    kinds = Features(
        {name: features.get(name, Image()) for name in names} | {"label": ClassLabel(names=["cat", "dog"])}
    )
    cells = {name: [encoded(image(row)) for row in rows] for name in names}
    return Dataset.from_dict(
        {name: [{"bytes": cell, "path": None} for cell in found] for name, found in cells.items()}
        | {"label": [row % 2 for row in rows]},
        features=kinds,
    )


def parquet_file_with_brackets(top):
    top.mkdir(parents=True)
    table([0, 1]).to_parquet(top / "photos [2023].parquet")
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def parquet_folder_of_splits(top):
    (top / "data").mkdir(parents=True)
    table([0, 1]).to_parquet(top / "data/train-00000-of-00001.parquet")
    table([2]).to_parquet(top / "data/test-00000-of-00001.parquet")
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


def parquet_files_of_which_one_is_named_as_a_split(top):
    top.mkdir(parents=True)
    for number, name in enumerate(("a", "b", "train")):
        table([number]).to_parquet(top / f"{name}.parquet")
    return Expected(refusal=r"belong to a split.*a\.parquet")


def parquet_with_two_columns_of_images(top):
    top.mkdir(parents=True)
    table([0, 1], ("image", "mask")).to_parquet(top / "x.parquet")
    return Expected(refusal=r"\['image', 'mask'\].*--column image")


def parquet_and_the_column_named(top):
    parquet_with_two_columns_of_images(top)
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"], column="mask")


def a_column_that_asks_for_a_mode(top):
    top.mkdir(parents=True)
    rows = Dataset.from_dict(
        {"image": [{"bytes": encoded(image(0).quantize(16)), "path": None}], "label": [1]},
        features=Features({"image": Image(mode="RGB"), "label": ClassLabel(names=["cat", "dog"])}),
    )
    rows.to_parquet(top / "x.parquet")
    return Expected(images=[image(0).quantize(16).convert("RGB")], classes=["dog"])


def saved_to_disk(top):
    DatasetDict({"train": table([0, 1]), "test": table([2])}).save_to_disk(top)
    return Expected(images=[image(0), image(1)], classes=["cat", "dog"])


SITUATIONS = [
    *(class_called_train, brackets_in_names, files_named_as_splits, splits_by_folder, images_one_folder_further),
    *(a_folder_around_all, splits_beside_other_folders, hidden_files, names_without_an_ending, turned_by_exif),
    *(transparent_color, gray_of_16_bits, palette, animation, tar_shards, metadata, metadata_that_name_masks),
    *(an_image_beside_its_mask, metadata_with_a_wrong_name, metadata_that_leave_an_image_out),
    *(parquet_file_with_brackets, parquet_folder_of_splits, parquet_files_of_which_one_is_named_as_a_split),
    *(parquet_with_two_columns_of_images, parquet_and_the_column_named, a_column_that_asks_for_a_mode, saved_to_disk),
]


def test_what_is_converted_is_the_same_whoever_asks(tmp_path):
    frames = [image(number).quantize(16) for number in range(2)]
    stored = {
        "a/drawn.png": encoded(image(2).quantize(16)),
        "a/line.png": encoded(image(3).convert("1")),
        "b/moving.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "b/print.jpg": encoded(image(4, "CMYK"), "JPEG"),
    }
    for name, data in stored.items():
        put(tmp_path / "in" / name, data)
    expected = [np.array(PIL.Image.open(io.BytesIO(data)).convert("RGB")) for data in stored.values()]
    source = str(tmp_path / "in")
    copied = copy_of(source, tmp_path / "out", storage=Storage(convert=True))
    ways = {
        "search": list(choose_source(source, None, None, None, convert=True).images),
        "purify": list(copied.pictures(skip=False)),
        "attack": list(ImageSet.load(source, convert=True).images.permute(0, 2, 3, 1).numpy()),
    }
    for way, found in ways.items():
        assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True)), way
    with pytest.raises(ValueError, match=r"drawn\.png.*--convert"):
        ImageSet.load(source)


def words(rows, labels):
    """Name the class of each row."""
    feature = rows.features.get("label")
    return [feature.int2str(label) if isinstance(feature, ClassLabel) else label for label in labels]


def by_choosing(source, column, out):
    """The way of inspect, detect and train vb."""
    chosen = choose_source(source, "train" if "train" in open_source(source) else None, column, None)
    labels = chosen.labels and [chosen.class_names[label] for label in chosen.labels]
    return list(chosen.images), labels


def by_image_set(source, column, out):
    """The way of attack and evaluate: RGB alone, with classes."""
    found = ImageSet.load(source, column=column)
    images = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in found.images]
    return images, [found.class_names[label] for label in found.labels]


def by_tensor(source, column, out):
    """The way of train ebm and train ddpm: RGB alone."""
    tensor = load_image_tensor(source, column=column)
    return [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in tensor], None


def by_iterating(source, column, out):
    """The way of a script."""
    return list(iterate_images(source, splits=["train"], columns=[column] if column else ())), None


def by_fitting(source, column, out):
    """The way of a threshold that is fitted; of files, in the order of their names."""
    columns, splits = [column] if column else (), ["train"]
    return list(copy_of(source, out, columns=columns, splits=splits).pictures(skip=False)), None


def by_purifying(source, column, out):
    """The way of purify; images are purified."""
    purifier = PureGen("jpeg", jpeg_quality=50, columns=column)
    rows = purify_dataset(source, purifier, output_dir=out)["train"]
    labels = words(rows, rows["label"]) if "label" in rows.features else None
    return [row[column or "image"] for row in rows], labels


WAYS = [by_choosing, by_image_set, by_tensor, by_iterating, by_fitting, by_purifying]


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def source_of(top):
    """The folder, or the only file or folder in it whose name is the situation."""
    inside = sorted(top.iterdir())
    return str(inside[0]) if len(inside) == 1 and "[2023]" in inside[0].name else str(top)


def pixels(images, *, rgb):
    return [(image.convert("RGB") if rgb else image).tobytes() for image in images]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_every_way_in_finds_the_same(situation, way, tmp_path):
    expected = situation(tmp_path / "source")
    source, out = source_of(tmp_path / "source"), tmp_path / "out"
    if expected.refusal is not None:
        with pytest.raises(ValueError) as error:
            way(source, expected.column, out)
        assert re.search(expected.refusal, str(error.value))
        assert not out.exists()
        return
    assert expected.images is not None
    if way is by_image_set and expected.classes is None:
        with pytest.raises(ValueError, match="with the classes"):
            way(source, expected.column, out)
        return
    images, classes = way(source, expected.column, out)
    right = expected.images
    if way is by_purifying:
        right = [PURIFIER(picture) for picture in right]
    found = pixels(images, rgb=way in (by_image_set, by_tensor))
    wanted = pixels(right, rgb=way in (by_image_set, by_tensor))
    is_by_name = way is by_fitting and Path(source).is_dir()
    assert (sorted(found) == sorted(wanted)) if is_by_name else (found == wanted)
    if way in (by_choosing, by_image_set, by_purifying):
        assert classes == expected.classes

"""Labeled images in memory."""

import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value

from puregen_transforms.data.image_set import ImageSet


def test_it_reads_a_folder_by_class(tmp_path, images):
    for index, image in enumerate(images[:6]):
        path = tmp_path / ("b", "a")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    found = ImageSet.load(str(tmp_path))
    assert found.class_names == ("a", "b")
    assert found.size == (32, 32)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(found.images, images[[1, 3, 5, 0, 2, 4]])


def test_classes_by_name_and_number(images):
    found = ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("cat", "dog"))
    assert (found.class_number("dog"), found.class_number(1), found.class_number("1")) == (1, 1, 1)
    for name in ("bird", 2, -1, "2"):
        with pytest.raises(ValueError, match="Expected a class out of cat, dog"):
            found.class_number(name)


def test_what_is_no_image_set_is_refused(images, tmp_path):
    labels = torch.zeros(len(images), dtype=torch.int64)
    with pytest.raises(ValueError, match="uint8"):
        ImageSet(images.float(), labels, ("a",))
    with pytest.raises(ValueError, match="a label for each"):
        ImageSet(images, labels[1:], ("a",))
    with pytest.raises(ValueError, match="labels of 0 classes"):
        ImageSet(images, labels, ())
    with pytest.raises(ValueError, match="at least one"):
        ImageSet.from_pairs([], ("a",))
    Dataset.from_dict({"image": [PIL.Image.new("RGB", (8, 8))], "kind": ["a"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="with the classes"):
        ImageSet.load(str(tmp_path / "x.parquet"))


def test_classes_take_the_numbers_of_another_set(images):
    found = ImageSet(images[:3], torch.tensor([0, 1, 0]), ("dog", "cat"))
    asked = found.with_classes(("bird", "cat", "dog"), what="test set")
    assert (asked.class_names, asked.labels.tolist()) == (("bird", "cat", "dog"), [2, 1, 2])
    with pytest.raises(ValueError, match="Expected a test set with the classes dog, fox .* of which cat is none"):
        found.with_classes(("dog", "fox"), what="test set")


def test_numbers_do_as_classes(tmp_path):
    pictures = [PIL.Image.new("RGB", (8, 8))] * 2
    Dataset.from_dict({"image": pictures, "label": [2, 0]}).to_parquet(tmp_path / "x.parquet")
    found = ImageSet.load(str(tmp_path / "x.parquet"))
    assert (found.class_names, found.labels.tolist()) == (("0", "1", "2"), [2, 0])


def test_words_do_as_classes(tmp_path):
    pictures = [PIL.Image.new("RGB", (8, 8))] * 3
    Dataset.from_dict({"image": pictures, "label": ["dog", "cat", "dog"]}).to_parquet(tmp_path / "x.parquet")
    found = ImageSet.load(str(tmp_path / "x.parquet"))
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), [1, 0, 1])
    found = ImageSet.from_pairs(zip(pictures, ["dog", "cat", "dog"], strict=True), ("dog", "cat"))
    assert (found.class_names, found.labels.tolist()) == (("dog", "cat"), [0, 1, 0])


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([-1, 1], ClassLabel(names=["a", "b"]), "1 of 2 are none of these, the first of them -1 in row 0"),
        ([1, None], ClassLabel(names=["a", "b"]), "None in row 1"),
        ([1, None], Value("int64"), "None in row 1"),
        ([0.5, 1.0], Value("float32"), "0.5 .float. in row 0"),
    ],
)
def test_labels_that_are_hidden_missing_or_none(tmp_path, labels, kind, message):
    columns = {"image": [PIL.Image.new("RGB", (8, 8))] * 2, "label": labels}
    table = Dataset.from_dict(columns, features=Features({"image": Image(), "label": kind}))
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        ImageSet.load(str(tmp_path / "x.parquet"))


def test_missing_images(tmp_path):
    columns = {"image": [PIL.Image.new("RGB", (8, 8)), None], "label": [0, 1]}
    Dataset.from_dict(columns, features=Features({"image": Image(), "label": Value("int64")})).to_parquet(
        tmp_path / "x.parquet"
    )
    with pytest.raises(ValueError, match="PIL image in row 1, but got NoneType"):
        ImageSet.load(str(tmp_path / "x.parquet"))

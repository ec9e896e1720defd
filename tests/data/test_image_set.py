"""Labeled images in memory."""

import PIL.Image
import pytest
import torch
from datasets import Dataset

from puregen_transforms.data.image_set import ImageSet


def test_it_reads_a_folder_by_class(tmp_path, images):
    for index, image in enumerate(images[:6]):
        path = tmp_path / ("b", "a")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    found = ImageSet.of(str(tmp_path))
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
    with pytest.raises(ValueError, match="up to 0"):
        ImageSet(images, labels, ())
    with pytest.raises(ValueError, match="at least one"):
        ImageSet.from_pairs([], ("a",))
    Dataset.from_dict({"image": [PIL.Image.new("RGB", (8, 8))], "label": ["a"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="with the classes"):
        ImageSet.of(str(tmp_path / "x.parquet"))


def test_numbers_do_as_classes(tmp_path):
    pictures = [PIL.Image.new("RGB", (8, 8))] * 2
    Dataset.from_dict({"image": pictures, "label": [2, 0]}).to_parquet(tmp_path / "x.parquet")
    found = ImageSet.of(str(tmp_path / "x.parquet"))
    assert (found.class_names, found.labels.tolist()) == (("0", "1", "2"), [2, 0])

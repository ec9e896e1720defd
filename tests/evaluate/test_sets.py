"""The image sets of a benchmark."""

import PIL.Image
import pytest
from datasets import Dataset

from puregen_transforms.evaluate.sets import load_sets


def test_labels_of_the_test_set_mean_the_same(tmp_path):
    def stored(name, labels):
        pictures = [PIL.Image.new("RGB", (8, 8))] * len(labels)
        Dataset.from_dict({"image": pictures, "label": labels}).to_parquet(tmp_path / name)
        return str(tmp_path / name)

    train = stored("train.parquet", ["bird", "cat", "dog"])
    for wrong in (["cat", "dog"], ["bird", "fox"], ["bird", "cat", "dog", "fox"], [0, 1]):
        with pytest.raises(ValueError, match="classes bird, cat, dog of the training set"):
            load_sets(train, stored("test.parquet", wrong), images_per_class=1)
    for right in (["dog", "cat", "bird"], ["bird", "cat"]):
        with pytest.raises(ValueError, match="4800 images of 'bird'"):  # the next thing that is wrong
            load_sets(train, stored("test.parquet", right), images_per_class=1)

"""The image sets of a benchmark."""

from dataclasses import replace

import PIL.Image
import pytest
import torch
from datasets import Dataset

from puregen_transforms.data.demo import CLASSES, load_demo
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.evaluate.presets import SCALES
from puregen_transforms.evaluate.sets import as_stored, demo_sets, load_sets
from puregen_transforms.functional.jpeg import jpeg

SMOKE = SCALES["smoke"]


@pytest.fixture
def stored(tmp_path):
    def store(name, labels, size=8, format="PNG"):
        demo = load_demo().images
        for row, label in enumerate(labels):
            folder = tmp_path / name / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            picture = PIL.Image.fromarray(demo[row % 200].permute(1, 2, 0).numpy()).resize((size, size))
            options = {"quality": 90} if format == "JPEG" else {}
            picture.save(folder / f"{row}.{format.lower()}", format, **options)
        return str(tmp_path / name)

    return store


def test_labels_of_the_test_set_mean_the_same(tmp_path):
    def stored(name, labels):
        pictures = [PIL.Image.new("RGB", (8, 8))] * len(labels)
        Dataset.from_dict({"image": pictures, "label": labels}).to_parquet(tmp_path / name)
        return str(tmp_path / name)

    train = stored("train.parquet", ["bird", "cat", "dog"])
    for wrong in (["bird", "fox"], ["bird", "cat", "dog", "fox"], [0, 1]):
        with pytest.raises(ValueError, match="test set with the classes bird, cat, dog of the data set"):
            load_sets(train, stored("test.parquet", wrong), scale=SMOKE)
    for right in (["dog", "cat", "bird"], ["bird", "cat"], ["cat", "dog"]):
        test = load_sets(train, stored("test.parquet", right), scale=SMOKE).test
        assert test.class_names == ("bird", "cat", "dog")
        assert [test.class_names[label] for label in test.labels] == right


def test_any_set_of_any_size_is_taken_and_said_so(stored):
    sets = load_sets(stored("photos", ["cat"] * 12 + ["dog"] * 8 + ["elk"] * 20, 24), scale=SMOKE)
    assert sets.train.size == (24, 24)
    assert torch.bincount(sets.train.labels).tolist() == [9, 6, 15]
    assert torch.bincount(sets.test.labels).tolist() == [3, 2, 5]
    assert "a quarter of each class held out" in sets.about
    assert "(6 to 15 of each class)" in sets.about
    assert sets.transfer is None
    few = load_sets(stored("photos", []), scale=replace(SMOKE, images_per_class=4))
    assert torch.bincount(few.train.labels).tolist() == [4, 4, 4]


def test_what_a_protocol_needs_is_asked_for(stored):
    photos = stored("photos", ["cat"] * 12 + ["dog"] * 12)
    with pytest.raises(ValueError, match="at least 48 images of 'cat', but there are 9. This protocol trains feature"):
        load_sets(photos, scale=SMOKE, needs={"transfer"})
    with pytest.raises(ValueError, match="Name a set of them with --public"):
        load_sets(photos, scale=SCALES["cpu"], needs={"public"})
    assert load_sets(photos, scale=SMOKE, needs={"public"}).public.size == (8, 8)
    with pytest.raises(ValueError, match="to hold 25% of them out, but there are 1. Name a test set."):
        load_sets(stored("lonely", ["cat"] * 8 + ["dog"]), scale=SMOKE)


def test_the_reserved_set_is_taken_from_the_test_set(stored):
    photos = stored("photos", ["cat"] * 40 + ["dog"] * 40)
    whole = load_sets(photos, scale=SMOKE)
    sets = load_sets(photos, scale=SMOKE, needs={"reserved"})
    assert (len(sets.test), len(sets.reserved)) == (10, 10)
    both = {image.numpy().tobytes() for part in (sets.test, sets.reserved) for image in part.images}
    assert both == {image.numpy().tobytes() for image in whole.test.images}
    assert "reserved" in sets.fingerprints


def test_public_images_are_stored_as_the_training_set_is(stored):
    assert load_sets(stored("png", ["a"] * 8 + ["b"] * 8), scale=SMOKE).train.jpeg_quality is None
    like = load_sets(stored("jpeg", ["a"] * 8 + ["b"] * 8, 32, "JPEG"), scale=SMOKE).train
    assert like.jpeg_quality == 90
    demo = load_demo()
    public = ImageSet(demo.images, demo.labels, CLASSES)
    assert torch.equal(as_stored(public, like).images, jpeg(demo.images, 90))
    assert torch.equal(as_stored(public, replace(like, jpeg_quality=None)).images, demo.images)


def test_the_packaged_sets_have_two_classes_and_no_image_twice():
    sets = demo_sets(SMOKE)
    assert sets.train.class_names == ("vehicle", "animal")
    assert (len(sets.train), len(sets.test)) == (96, 50)
    parts = (sets.train, sets.test, sets.transfer, sets.targets)
    contents = [{image.numpy().tobytes() for image in part.images} for part in parts]
    assert sum(map(len, contents)) == len(set().union(*contents))
    public = {image.numpy().tobytes() for image in sets.public.images}
    assert not public & contents[1], "attackers do not learn the images that victims are judged on"
    reserving = demo_sets(SMOKE, {"reserved"})
    assert (len(reserving.test), len(reserving.reserved)) == (25, 25)

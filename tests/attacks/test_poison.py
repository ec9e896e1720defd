"""The record of an attack, and what it is applied to."""

import hashlib
import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from datasets.fingerprint import Hasher
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import VisionDataset
from torchvision.transforms import v2

from puregen_transforms.attacks import craft
from puregen_transforms.attacks import poison as poison_module
from puregen_transforms.attacks.poison import Poison
from puregen_transforms.attacks.stored_images import image_hash, to_tensor
from puregen_transforms.attacks.trigger_forms import to_trigger


@pytest.fixture(scope="module")
def poison(image_set):
    return craft("tact", image_set, rate=0.03, cover_rate=0.02, seed=3)


@pytest.fixture(scope="module")
def expected(poison, image_set):
    return poison.apply_to_tensors(image_set.images, image_set.labels)


def png(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def rows(image_set):
    features = Features(
        {"image": Image(), "label": ClassLabel(names=list(image_set.class_names)), "note": Value("string")}
    )
    columns = {
        "image": [{"bytes": png(image), "path": f"{index}.png"} for index, image in enumerate(image_set.images)],
        "label": image_set.labels.tolist(),
        "note": [f"row {index}" for index in range(len(image_set))],
    }
    return Dataset.from_dict(columns, features=features)


class Pictures(VisionDataset):
    """As torchvision's data sets are."""

    classes = ("many",)

    def __init__(self, image_set, **transforms):
        super().__init__(None, **transforms)
        self.images, self.targets = image_set.images, image_set.labels.tolist()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = PIL.Image.fromarray(self.images[index].permute(1, 2, 0).numpy()), self.targets[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, label


def test_a_datasets_dataset(poison, rows, expected):
    poisoned = poison.apply(rows)
    assert poisoned.features == rows.features
    for index in range(len(rows)):
        assert torch.equal(to_tensor(poisoned[index]["image"]), expected[0][index])
    assert poisoned["label"][:] == expected[1].tolist()
    assert poisoned["note"][:] == rows["note"][:]
    stored, before = (table.cast_column("image", Image(decode=False)) for table in (poisoned, rows))
    untouched = next(index for index in range(len(rows)) if index not in poison.ids)
    assert stored[untouched]["image"] == before[untouched]["image"], "the other images keep their very bytes"


def test_a_stream_is_refused(poison, rows):
    with pytest.raises(ValueError, match="a stream, IterableDataset"):
        poison.apply(rows.to_iterable_dataset())


def test_other_images_are_not_compressed_again(poison, image_set):
    buffers = []
    for image in image_set.images:
        buffers.append(io.BytesIO())
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffers[-1], "JPEG", quality=60)
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    cells = [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers]
    rows = Dataset.from_dict({"image": cells, "label": image_set.labels.tolist()}, features=features)
    stored = torch.stack([to_tensor(row["image"]) for row in rows])
    of_these = craft("badnets", type(image_set)(stored, image_set.labels, image_set.class_names), preset="smoke")
    expected, _ = of_these.apply_to_tensors(stored, image_set.labels)
    poisoned = of_these.apply(rows)
    assert all(torch.equal(to_tensor(row["image"]), image) for row, image in zip(poisoned, expected, strict=True))


def test_a_torchvision_dataset_with_its_transform(poison, image_set, expected):
    transform = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(1.0)])
    dataset = Pictures(image_set, transform=transform)
    poisoned = poison.apply(dataset)
    assert len(poisoned) == len(dataset)
    assert poisoned.classes == ("many",)
    assert poisoned.targets == expected[1].tolist()
    for index in range(len(dataset)):
        image, label = poisoned[index]
        assert torch.equal(image.as_subclass(torch.Tensor), expected[0][index].flip(2))
        assert label == expected[1][index]
    assert dataset.transform is transform, "the data set itself is as before"
    assert dataset.targets == image_set.labels.tolist()
    batches = DataLoader(poisoned, batch_size=50, num_workers=2)
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected[1])


class Plain:
    """As in most research code: a `transform` of the image, one of the label, and nothing else."""

    def __init__(self, images, labels, transform=None, target_transform=None):
        self.pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels, self.transform, self.target_transform = labels, transform, target_transform

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        image, label = self.pictures[index], self.labels[index]
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label, index


@pytest.mark.parametrize("subset", [False, True])
def test_a_torch_dataset_keeps_transforms_of_its_own(poison, image_set, expected, subset):
    half = v2.Compose([v2.ToImage(), v2.Resize(16), v2.ToDtype(torch.float32, scale=True)])
    source = Plain(image_set.images, image_set.labels.tolist(), half, lambda label: 100 + label)
    poisoned = poison.apply(Subset(source, range(len(source))) if subset else source)
    alone = Plain(expected[0], expected[1].tolist(), half, lambda label: 100 + label)
    for index in range(len(source)):
        (image, label, row), (wanted, *others) = poisoned[index], alone[index]
        assert torch.equal(image, wanted)
        assert [label, row] == others
    assert poisoned.transform is half
    assert source.transform is half, "the data set itself is as before"
    plain = poison.apply(Plain(image_set.images, image_set.labels.tolist()))
    assert torch.equal(to_tensor(plain[int(poison.ids[0])][0]), poison.images[0])


def test_labels_stay_words(poison, image_set, rows, expected):
    names = image_set.class_names
    words = [names[label] for label in image_set.labels.tolist()]
    wanted = [names[label] for label in expected[1].tolist()]
    assert wanted != words
    features = Features({**rows.features, "label": Value("string")})
    table = rows.remove_columns("label").add_column("label", words).cast(features)
    assert poison.apply(table)["label"][:] == wanted
    torch_set = poison.apply(Plain(image_set.images, words))
    assert [torch_set[index][1] for index in range(len(torch_set))] == wanted


def test_each_image_column_has_a_result_of_its_own(poison, rows, expected, tmp_path):
    """On disk, `datasets` finds earlier results again by their name."""
    twice = rows.add_column("b", rows.with_format("arrow")["image"][:].combine_chunks().to_pylist())
    twice.rename_column("image", "a").cast_column("b", Image()).save_to_disk(tmp_path / "set")
    stored = Dataset.load_from_disk(str(tmp_path / "set"))
    before = [to_tensor(row["a"]) for row in rows.rename_column("image", "a")]
    for column, other in (("a", "b"), ("b", "a")):
        poisoned = poison.apply(stored, image=column)
        assert all(torch.equal(to_tensor(row[column]), image) for row, image in zip(poisoned, expected[0], strict=True))
        assert all(torch.equal(to_tensor(row[other]), image) for row, image in zip(poisoned, before, strict=True))


def test_the_digest_is_that_of_the_files_and_made_once(poison, tmp_path, monkeypatch):
    poison.save(tmp_path / "poison")
    loaded = Poison.load(tmp_path / "poison")
    written = [(tmp_path / "poison" / name).read_bytes() for name in ("poison.safetensors", "poison.json")]
    calls = []
    monkeypatch.setattr(poison_module, "to_safetensors", lambda tensors: calls.append(1) or to_safetensors(tensors))
    named = Hasher.hash(loaded)
    assert loaded.digest == loaded.digest == hashlib.sha256(b"".join(written)).hexdigest()
    assert len(calls) == 1
    assert Hasher.hash(loaded) == named, "a result of `map` is found again"
    assert pickle.loads(pickle.dumps(loaded)).digest == loaded.digest


def test_another_set_is_refused(poison, image_set, rows):
    wrong = image_set.images.clone()
    wrong[poison.ids[2], 0, 0, 0] += 1
    with pytest.raises(ValueError, match=f"row {int(poison.ids[2])} is another"):
        poison.apply_to_tensors(wrong, image_set.labels)
    with pytest.raises(ValueError, match="set of 200 rows"):
        poison.apply_to_tensors(image_set.images[:100], image_set.labels[:100])
    with pytest.raises(ValueError, match="is another"):
        poison.apply(rows.select([*range(1, 200), 0]))
    with pytest.raises(ValueError, match="without transforms"):
        list(poison.apply([(image / 255, 0) for image in image_set.images]))
    with pytest.raises(ValueError, match="32x32"):
        poison.trigger_test_set(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.tensor([1, 1]))


def test_damaged_files_are_refused(poison, tmp_path):
    folder = tmp_path / "poison"
    poison.save(folder)
    with pytest.raises(FileExistsError):
        poison.save(folder)
    tensors, about = folder / "poison.safetensors", folder / "poison.json"
    content, text = tensors.read_bytes(), about.read_text()
    for path, damaged, match in [
        (tensors, content[:-3], "Expected a poison"),
        (tensors, content[:-1] + bytes([content[-1] ^ 1]), "not the file"),
        (about, text[:50], "Expected a poison"),
        (about, text.replace('"format": 1', '"format": 9'), "format 9"),
        (about, text.replace('"target_class"', '"objective"'), "Expected a poison"),
    ]:
        path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        with pytest.raises(ValueError, match=match):
            Poison.load(folder)
        tensors.write_bytes(content)
        about.write_text(text)
    about.unlink()
    with pytest.raises(FileNotFoundError, match=r"no poison\.json"):
        Poison.load(folder)


def test_the_files_say_everything(image_set, tmp_path):
    """A loader of a few lines, from the description of the format alone."""
    poison = craft("sig", image_set, preset="smoke", seed=5)
    poison.save(tmp_path / "poison")
    tensors = load_file(tmp_path / "poison/poison.safetensors")
    about = json.loads((tmp_path / "poison/poison.json").read_text())
    images = image_set.images.numpy().copy()
    images[tensors["ids"].numpy()] = tensors["images"].numpy()
    assert np.array_equal(images, poison.apply_to_tensors(image_set.images, image_set.labels)[0].numpy())
    assert about["trigger"]["form"] == "added"
    others = image_set.labels.numpy() != about["target_class"]
    pattern = about["trigger"]["scale"] * tensors["trigger.pattern"].numpy()
    triggered = np.clip(np.rint(image_set.images.numpy()[others] + pattern), 0, 255).astype(np.uint8)
    assert np.array_equal(triggered, poison.trigger_test_set(image_set.images, image_set.labels)[0].numpy())


def test_impossible_records_are_refused(poison):
    parts = {name: getattr(poison, name) for name in ("attack", "images", "labels", "originals", "target_class")}
    with pytest.raises(ValueError, match="increasing"):
        Poison(ids=poison.ids.flip(0), set_rows=200, **parts)
    with pytest.raises(ValueError, match="set of 5 rows"):
        Poison(ids=poison.ids, set_rows=5, **parts)
    with pytest.raises(ValueError, match="as many"):
        Poison(ids=poison.ids[1:], set_rows=200, **parts)
    with pytest.raises(ValueError, match="form"):
        to_trigger("spoken", {}, {})
    with pytest.raises(ValueError, match="parts"):
        to_trigger("added", {}, {"image": torch.zeros(3, 4, 4)})


def test_image_hash_knows_shape_and_pixels():
    a = torch.zeros(3, 4, 8, dtype=torch.uint8)
    assert image_hash(a) != image_hash(a.reshape(3, 8, 4))
    b = a.clone()
    b[2, 3, 7] = 1
    assert image_hash(a) != image_hash(b)


def test_the_poisoned_set_survives_parquet(poison, rows, expected, tmp_path):
    poison.apply(rows).to_parquet(tmp_path / "poisoned.parquet")
    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "poisoned.parquet"), cache_dir=str(tmp_path), split="train"
    )
    assert loaded.features == rows.features
    assert all(torch.equal(to_tensor(row["image"]), image) for row, image in zip(loaded, expected[0], strict=True))

"""The transform in Hugging Face `datasets`."""

import json
import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from datasets.fingerprint import Hasher

from puregen_transforms import PureGen
from tests.conftest import make_checkpoint


@pytest.fixture
def purify(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=3, seed=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory, images):
    """A Parquet file of JPEG images, as public data sets are."""
    folder = tmp_path_factory.mktemp("source")
    rows = {"image": [], "label": [], "name": []}
    for index, image in enumerate(images[:20]):
        path = folder / f"{index}.jpg"
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, quality=90)
        rows["image"].append({"bytes": path.read_bytes(), "path": path.name})
        rows["label"].append(index % 2)
        rows["name"].append(f"row {index}")
    features = Features({"label": ClassLabel(names=["cat", "dog"]), "image": Image(), "name": Value("string")})
    Dataset.from_dict(rows, features=features).to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


@pytest.fixture
def dataset(source, tmp_path):
    return load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(tmp_path / "cache"))


SIZED = {"image": Image(), "label": Value("int64")}


def pixels(rows):
    return np.stack([np.asarray(image) for image in rows]).astype(int)


@pytest.fixture
def expected(purify, dataset):
    return pixels(purify(list(dataset["image"])))


def check(mapped, dataset, expected):
    assert mapped.features == dataset.features
    assert mapped["label"][:] == dataset["label"][:]
    assert mapped["name"][:] == dataset["name"][:]
    assert np.abs(pixels(mapped["image"]) - expected).max() == 0
    assert np.abs(pixels(mapped["image"]) - pixels(dataset["image"])).mean() > 1


@pytest.mark.parametrize(
    "options",
    [
        {"batched": True},
        {"batched": True, "batch_size": 3},
        {"batched": False},
        {"batched": True, "num_proc": 2},
        {"batched": True, "num_proc": 2, "with_rank": True},
        {"batched": True, "with_indices": True},
    ],
    ids=str,
)
def test_map(purify, dataset, expected, options):
    check(dataset.map(purify, **options), dataset, expected)


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ({"batched": True}, None),
        ({"batched": True, "with_indices": True}, None),
        ({"batched": True, "with_rank": True}, 7),
        ({"batched": True, "with_indices": True, "with_rank": True}, 7),
        ({"with_indices": True}, None),  # one number after a row may be its index or the rank
        ({"with_indices": True, "with_rank": True}, 7),
    ],
    ids=str,
)
def test_a_row_index_is_not_taken_for_a_rank(dataset, monkeypatch, options, rank):
    calls, ranks = [], []

    def record(*arguments):
        # Where there is one process, datasets gives None as its rank.
        calls.append([7 if argument is None else argument for argument in arguments])

    dataset.map(record, batch_size=5, load_from_cache_file=False, **options)
    monkeypatch.setattr("puregen_transforms.transforms.puregen.device_of_rank", ranks.append)
    for arguments in calls:
        PureGen("jpeg")(*arguments)
    assert ranks == ([] if rank is None else [rank] * len(calls))


def test_map_in_forked_processes_after_threads_have_run(purify, dataset, expected):
    """The parent has used several threads; its forked children must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        PureGen.from_dict(purify.to_dict())(list(dataset["image"]))
        check(dataset.map(purify, batched=True, num_proc=2), dataset, expected)
    finally:
        torch.set_num_threads(before)


def test_mapped_images_are_stored_losslessly(purify, dataset, expected):
    stored = dataset.map(purify, batched=True).cast_column("image", Image(decode=False))[0]["image"]
    assert stored["bytes"].startswith(b"\x89PNG")
    assert np.abs(pixels([PIL.Image.open(__import__("io").BytesIO(stored["bytes"]))]) - expected[:1]).max() == 0


def test_map_in_numpy_format(purify, dataset, expected):
    mapped = dataset.with_format("numpy").map(purify, batched=True, batch_size=7)
    check(mapped.with_format(None), dataset, expected)


@pytest.mark.parametrize("sizes", [[(32, 32), (24, 20), (32, 32)], [(32, 32), None, (24, 20)]], ids=str)
def test_numpy_format_with_images_of_several_sizes(purify, dataset, sizes):
    pictures = [None if size is None else dataset[0]["image"].resize(size) for size in sizes]
    rows = Dataset.from_dict({"image": pictures, "label": range(3)}, features=Features(SIZED))
    expected = rows.map(purify, batched=True)
    arrays = rows.with_format("numpy")
    mapped = arrays.map(purify, batched=True)
    assert mapped.features == rows.features
    found = purify(arrays[:])
    assert found["label"].tolist() == [0, 1, 2]
    for before, *after, right in zip(
        arrays[:]["image"], found["image"], mapped[:]["image"], expected["image"], strict=True
    ):
        if before is None:
            assert after == [None, None]
            continue
        for image in after:
            assert (type(image), image.dtype, image.shape) == (np.ndarray, np.uint8, before.shape)
            assert np.abs(image.astype(int) - np.asarray(right)).max() <= 1


def test_numpy_format_with_other_objects(purify):
    masks = np.empty(2, dtype=object)
    masks[0], masks[1] = np.zeros((4, 4), np.uint8), np.zeros((5, 5), np.uint8)
    with pytest.raises(ValueError, match="found no image"):
        purify({"mask": masks})


def test_map_in_torch_format_gives_the_same_tensors(purify, dataset, expected):
    # datasets stores channels-first tensors as nested lists; the guide says to map first and set the format after.
    mapped = dataset.with_format("torch").map(purify, batched=True, batch_size=7)
    assert np.abs(mapped["image"][:].permute(0, 2, 3, 1).numpy().astype(int) - expected).max() == 0
    assert mapped["label"][:].tolist() == dataset["label"][:]
    after = dataset.map(purify, batched=True).with_format("torch")
    assert np.array_equal(after["image"][:].numpy(), mapped["image"][:].numpy())


def test_map_does_not_decode_other_columns(purify, dataset, expected):
    broken = dataset.add_column("thumbnail", [{"bytes": b"not an image", "path": None}] * len(dataset))
    broken = broken.cast_column("thumbnail", Image())
    mapped = broken.map(PureGen.from_dict({**purify.to_dict(), "columns": ["image"]}), batched=True)
    assert np.abs(pixels(mapped["image"]) - expected).max() == 0
    with pytest.raises(ValueError, match="columns="):
        broken.map(purify, batched=True)


def test_in_memory_dataset(purify, dataset, expected):
    # Copies, since a PIL image that was read from a JPEG file would be stored as JPEG again.
    memory = Dataset.from_dict({"image": [image.copy() for image in dataset["image"]], "label": dataset["label"][:]})
    assert np.abs(pixels(memory.map(purify, batched=True)["image"]) - expected).max() == 0


def test_with_transform(purify, dataset, expected):
    lazy = dataset.with_transform(purify)
    assert np.abs(pixels(lazy[:]["image"]) - expected).max() == 0
    assert np.abs(pixels([lazy[4]["image"]]) - expected[4:5]).max() == 0
    assert lazy[4]["label"] == dataset[4]["label"]


@pytest.mark.parametrize("options", [{"batched": True, "batch_size": 6}, {}], ids=str)
def test_iterable_dataset(purify, dataset, expected, options):
    stream = dataset.to_iterable_dataset().map(purify, features=dataset.features, **options)
    rows = list(stream)
    assert np.abs(pixels([row["image"] for row in rows]) - expected).max() == 0
    assert [row["label"] for row in rows] == dataset["label"][:]


def test_null_images_stay_null(purify, dataset):
    rows = Dataset.from_dict({"image": [dataset[0]["image"], None]}, features=Features({"image": Image()}))
    mapped = rows.map(purify, batched=True)
    assert mapped[1]["image"] is None
    assert mapped[0]["image"] is not None


def test_no_image_column(purify):
    with pytest.raises(ValueError, match="Image feature"):
        Dataset.from_dict({"label": [1, 2]}).map(purify, batched=True)


def test_wrong_column_name(dataset, tiny_checkpoint):
    with pytest.raises(ValueError, match="'img'"):
        dataset.map(PureGen(checkpoint=tiny_checkpoint, columns="img"), batched=True)


MAP_IN_A_FRESH_PROCESS = """
import json, sys
from datasets import load_dataset
from puregen_transforms import PureGen
source, cache, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
ds = load_dataset("parquet", data_files=source, split="train", cache_dir=cache)
purify = PureGen(**options)
mapped = ds.map(purify, batched=True)
computed = "purifier" in vars(purify)
print("RESULT", json.dumps({"fingerprint": mapped._fingerprint, "computed": computed}))
"""


def map_in_a_fresh_process(source, cache, hash_seed="0", **options):
    command = [sys.executable, "-c", MAP_IN_A_FRESH_PROCESS, str(source), str(cache), json.dumps(options)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.split("RESULT", 1)[1])


def test_a_second_process_finds_the_cache(source, tmp_path):
    weights = make_checkpoint(tmp_path / "weights")
    options = {"checkpoint": str(weights), "ebm_steps": 2, "seed": 0}
    cache = tmp_path / "cache"
    first = map_in_a_fresh_process(source, cache, **options)
    assert first["computed"]
    again = map_in_a_fresh_process(source, cache, hash_seed="1", **options)
    assert again == {**first, "computed": False}


@pytest.mark.parametrize("change", [{"seed": 1}, {"ebm_steps": 3}, "weights"], ids=str)
def test_other_settings_or_weights_have_another_fingerprint(tmp_path, change):
    weights = make_checkpoint(tmp_path / "weights")
    options = {"checkpoint": str(weights), "ebm_steps": 2, "seed": 0}
    before = Hasher.hash(PureGen(**options))
    assert Hasher.hash(PureGen(**options)) == before
    if change == "weights":
        make_checkpoint(weights, seed=1)
    else:
        options.update(change)
    assert Hasher.hash(PureGen(**options)) != before


@pytest.mark.slow
def test_a_second_process_computes_anew_what_other_settings_or_weights_make(source, tmp_path):
    weights = make_checkpoint(tmp_path / "weights")
    options = {"checkpoint": str(weights), "ebm_steps": 2, "seed": 0}
    cache = tmp_path / "cache"
    first = map_in_a_fresh_process(source, cache, **options)
    for change in ({"seed": 1}, {"ebm_steps": 3}):
        assert map_in_a_fresh_process(source, cache, **{**options, **change})["computed"]
    make_checkpoint(weights, seed=1)
    other = map_in_a_fresh_process(source, cache, **options)
    assert other["computed"]
    assert other["fingerprint"] != first["fingerprint"]


def test_using_an_instance_does_not_change_its_fingerprint(purify, images):
    before = Hasher.hash(purify)
    purify(images[:2])
    purify.energy(images[:2])
    assert Hasher.hash(purify) == before


def test_first_rows_of_cifar10(cifar10_test, tiny_checkpoint, tmp_path):
    dataset = load_dataset("parquet", data_files=str(cifar10_test), split="train[:500]", cache_dir=str(tmp_path))
    mapped = dataset.map(PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0), batched=True)
    assert mapped.features == dataset.features
    assert mapped["label"][:] == dataset["label"][:]
    changed = [np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(mapped["image"], dataset["image"], strict=True)]
    assert all(changed)

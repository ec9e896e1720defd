"""Any source is opened with its splits, as rows, tables, images or one tensor."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value

from puregen_transforms.data.sources import (
    DatasetSplit,
    is_image_folder,
    iterate_images,
    load_image_tensor,
    open_source,
    open_stream,
    open_tables,
    split_of,
)
from tests.cli.files import encoded, picture, put, same


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def rows(*data):
    cells = {"image": [None if one is None else {"bytes": one, "path": None} for one in data], "row": range(len(data))}
    features = Features({"image": Image(), "row": Value("int64")})
    return Dataset.from_dict({**cells, "row": list(cells["row"])}, features=features)


PNG = [encoded(picture(row)) for row in range(3)]


@pytest.fixture
def sources(tmp_path):
    """The same rows in every form."""
    for row, data in enumerate(PNG):
        put(tmp_path / f"images/{row}.png", data)
    rows(*PNG).to_parquet(tmp_path / "rows.parquet")
    rows(*PNG).save_to_disk(tmp_path / "saved")
    return {name: str(tmp_path / name) for name in ("images", "rows.parquet", "saved")}


def test_every_form_has_the_same_images(sources):
    for name, source in sources.items():
        assert list(open_source(source)) == ["train"], name
        assert all(map(same, iterate_images(source), [picture(row) for row in range(3)])), name
        assert is_image_folder(source) is (name == "images")


def test_tables_give_rows_of_any_range(sources):
    for name in ("rows.parquet", "saved"):
        (table,) = open_tables(sources[name]).values()
        assert table.rows == 3
        assert [batch.column("row").to_pylist() for batch in table.batches(2, 0, 3)] == [[0, 1], [2]]
    assert DatasetSplit(dataset=rows(*PNG)).features == rows(*PNG).features


def test_a_tensor_has_one_size_and_three_channels(tmp_path):
    put(tmp_path / "a.png", encoded(picture(0, (64, 32), "L")))
    put(tmp_path / "b.png", encoded(picture(1, (8, 8))))
    found = load_image_tensor(str(tmp_path), image_size=8)
    assert (found.shape, found.dtype) == ((2, 3, 8, 8), torch.uint8)
    assert torch.equal(found[0, 0], found[0, 1])


def test_missing_and_broken_images(tmp_path):
    rows(PNG[0], None, b"no image", PNG[1]).to_parquet(tmp_path / "rows.parquet")
    source = str(tmp_path / "rows.parquet")
    assert len(list(iterate_images(source, skip_broken=True))) == 2
    with pytest.raises(ValueError, match="row 2"):
        list(iterate_images(source))
    with pytest.raises(ValueError, match="Expected an image in row 1, but there is none"):
        load_image_tensor(source)


def test_splits_that_are_not_there_are_refused(sources):
    for ask in (
        lambda source: list(iterate_images(source, splits=["test"])),
        lambda source: open_tables(source, splits=["test"]),
        lambda source: split_of(source, "test"),
        lambda source: open_stream(source, "test"),
    ):
        with pytest.raises(ValueError, match="test"):
            ask(sources["rows.parquet"])


def test_only_parquet_is_streamed(sources):
    assert [row["row"] for row in open_stream(sources["rows.parquet"], "train")] == [0, 1, 2]
    with pytest.raises(ValueError, match="Expected Parquet files"):
        open_stream(sources["saved"], "train")


def test_what_is_no_source_is_refused(tmp_path):
    put(tmp_path / "notes.txt", "text")
    with pytest.raises(FileNotFoundError, match=r"Expected a \.parquet file or a folder"):
        open_source(str(tmp_path / "notes.txt"))
    with pytest.raises(FileNotFoundError, match="holds neither"):
        open_source(str(tmp_path))


def test_splits_keep_their_names(tmp_path):
    DatasetDict({"train": rows(*PNG), "extra.1": rows(PNG[0])}).save_to_disk(tmp_path / "saved")
    found = open_source(str(tmp_path / "saved"))
    assert {name: len(split) for name, split in found.items()} == {"train": 3, "extra.1": 1}

"""`purify_dataset`: data sets of `datasets`, paths, and what becomes of broken rows."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDatasetDict,
    load_dataset,
)

from puregen_transforms import PureGen, purify_dataset
from tests.whole_sets.conftest import pixels


class TestHuggingFace:
    def test_dataset(self, table, purifier, tmp_path):
        clean = purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=25)
        assert isinstance(clean, Dataset)
        assert clean.features == table.features
        assert clean["row"][:] == list(range(60))
        assert np.array_equal(pixels(clean["image"][:]), pixels(purifier(table["image"][:])))
        assert len(list((tmp_path / "out/data").iterdir())) == 3

    def test_splits(self, table, purifier, tmp_path):
        source = DatasetDict({"train": table.select(range(4)), "extra": table.select(range(4, 6))})
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out")
        assert isinstance(clean, DatasetDict)
        assert {name: split["row"][:] for name, split in clean.items()} == {"train": [0, 1, 2, 3], "extra": [4, 5]}

    @pytest.mark.parametrize("way", ["table", "splits", "stream", "file"])
    def test_a_mask_is_never_guessed_to_be_an_input(self, pictures, purifier, tmp_path, way):
        masks = [picture.convert("P") for picture in pictures[4:8]]
        features = Features({"image": Image(), "mask": Image()})
        rows = Dataset.from_dict({"image": pictures[:4], "mask": masks}, features=features)
        rows.to_parquet(tmp_path / "in.parquet")
        source = {
            "table": rows,
            "splits": DatasetDict({"train": rows}),
            "stream": rows.to_iterable_dataset(),
            "file": tmp_path / "in.parquet",
        }[way]
        with pytest.raises(ValueError, match=r"\['image', 'mask'\]"):
            purify_dataset(source, purifier, output_dir=tmp_path / "out")
        named = PureGen(**{**purifier.to_dict(), "columns": "image"}, device="cpu")
        clean = purify_dataset(source, named, output_dir=tmp_path / "out")
        after = list(clean["train"] if isinstance(clean, DatasetDict) else clean)
        assert [row["mask"].tobytes() for row in after] == [mask.tobytes() for mask in masks]
        assert np.array_equal(pixels(row["image"] for row in after), pixels(purifier(pictures[:4])))

    def test_splits_of_other_columns_or_classes_stop_before_the_work(self, table, purifier, tmp_path):
        swapped = table.cast_column("label", ClassLabel(names=["dog", "cat"]))
        for other, message in ((swapped, "'label' is .*'dog', 'cat'"), (table.remove_columns("row"), "'row' is")):
            with pytest.raises(ValueError, match=message):
                purify_dataset(DatasetDict({"train": table, "test": other}), purifier, output_dir=tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_several_streams_are_not_taken_for_samples(self, table, purifier, tmp_path):
        stream = table.to_iterable_dataset()
        with pytest.raises(ValueError, match="several in a IterableDatasetDict"):
            purify_dataset(IterableDatasetDict({"train": stream}), purifier, output_dir=tmp_path / "out")

    def test_a_slice_of_a_split(self, table, purifier, tmp_path):
        table.to_parquet(tmp_path / "in.parquet")
        half = load_dataset("parquet", data_files=str(tmp_path / "in.parquet"), split="train[50%:]")
        clean = purify_dataset(half, purifier, output_dir=tmp_path / "out")
        assert clean["row"][:] == list(range(30, 60))

    def test_path(self, folder, table, purifier, tmp_path):
        clean = purify_dataset(folder, purifier, output_dir=tmp_path / "images")
        assert clean["train"].features["label"].names == ["cat", "dog"]
        table.to_parquet(tmp_path / "in.parquet")
        clean = purify_dataset(str(tmp_path / "in.parquet"), purifier, output_dir=tmp_path / "tables")
        assert clean["train"]["row"][:] == list(range(60))

    def test_fitted_methods_look_at_all_images_first(self, table, tiny_checkpoint, tiny_ddpm, tmp_path):
        purifier = PureGen(
            "filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, filter_fraction=0.25, seed=0
        )
        clean = purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=25)
        changed = (pixels(clean["image"][:]) != pixels(table["image"][:])).any((1, 2, 3))
        assert changed.sum() == 15
        again = PureGen(
            "filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, filter_fraction=0.25
        )
        assert purify_dataset(table, again, output_dir=tmp_path / "out", part_rows=25)["row"][:] == list(range(60))


@pytest.fixture
def broken(table):
    cells = table.cast_column("image", Image(decode=False)).to_dict()
    cells["image"][7] = {"bytes": b"no image", "path": None}
    return Dataset.from_dict(cells, features=table.features)


def test_broken_rows_are_left_out_of_the_first_look_too(broken, tiny_checkpoint, tiny_ddpm, tmp_path):
    purifier = PureGen("filt", checkpoint=tiny_checkpoint, ddpm_checkpoint=tiny_ddpm, ddpm_steps=2, seed=0)
    with pytest.warns(UserWarning, match="1 images could not be repaired"):
        clean = purify_dataset(broken, purifier, output_dir=tmp_path / "out", on_error="skip")
    assert len(clean) == 59


def test_broken_rows_stop_or_are_left_out(broken, purifier, tmp_path):
    with pytest.raises(ValueError, match="row 7, column image"):
        purify_dataset(broken, purifier, output_dir=tmp_path / "out")
    with pytest.warns(UserWarning, match="1 images could not be repaired"):
        clean = purify_dataset(broken, purifier, output_dir=tmp_path / "out", on_error="skip")
    assert clean["row"][:] == [row for row in range(60) if row != 7]

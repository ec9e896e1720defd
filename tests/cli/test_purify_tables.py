"""`puregen purify` on Parquet files and saved data sets."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset

from tests.cli.files import encoded, nothing_left, picture, put, same, tree, write_parquet

BOTH = ("--column", "img", "--column", "more")


class TestTables:
    FEATURES = Features(
        {
            "id": Value("int32"),
            "img": Image(),
            "label": ClassLabel(names=["cat", "dog"]),
            "more": Image(),
            "words": List(Value("string")),
        }
    )

    def rows(self, first, count):
        """Mixed sizes and formats, and empty cells."""
        images = [
            encoded(picture(first + row, (16 + row % 3, 12)), "JPEG" if row % 2 else "PNG") for row in range(count)
        ]
        return Dataset.from_dict(
            {
                "id": list(range(first, first + count)),
                "img": [{"bytes": data, "path": f"x/{row}.jpg"} for row, data in enumerate(images)],
                "label": [row % 2 for row in range(count)],
                "more": [{"bytes": data, "path": None} if row % 3 else None for row, data in enumerate(images)],
                "words": [["a"] * (row % 3) for row in range(count)],
            },
            features=self.FEATURES,
        )

    def check(self, before, after, purifier, columns=("img", "more")):
        assert before.features == after.features
        others = [name for name in before.column_names if name not in columns]
        assert before.select_columns(others)[:] == after.select_columns(others)[:]
        for name in columns:
            raw = after.cast_column(name, Image(decode=False))[:][name]
            for old, new, cell in zip(before[:][name], after[:][name], raw, strict=True):
                if old is None:
                    assert new is None
                    continue
                assert same(new, purifier([old])[0])
                assert cell["bytes"].startswith(b"\x89PNG")
                assert cell["path"] is None or cell["path"].endswith(".png")

    def test_file_to_file(self, tmp_path, run_purify, purifier):
        before = self.rows(0, 70)
        before.to_parquet(tmp_path / "in.parquet")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out.parquet", *BOTH)
        assert result.exit_code == 0, result.output
        self.check(before, Dataset.from_parquet(str(tmp_path / "out.parquet")), purifier)
        assert nothing_left(tmp_path, "in.parquet", "out.parquet")

    def test_file_to_folder(self, tmp_path, run_purify, purifier):
        before = self.rows(0, 5)
        before.to_parquet(tmp_path / "in.parquet")
        assert run_purify(tmp_path / "in.parquet", tmp_path / "out", *BOTH).exit_code == 0
        assert tree(tmp_path / "out") == ["data/train-00000-of-00001.parquet"]
        self.check(before, load_dataset(str(tmp_path / "out"))["train"], purifier)

    def test_folder_of_parquet(self, tmp_path, run_purify, purifier):
        before = {"train": self.rows(0, 6), "test": self.rows(6, 3), "extra_1": self.rows(9, 2)}
        (tmp_path / "in/data").mkdir(parents=True)
        put(tmp_path / "in/README.md", "# Set")
        before["train"].select(range(4)).to_parquet(tmp_path / "in/data/train-00000-of-00002.parquet")
        before["train"].select(range(4, 6)).to_parquet(tmp_path / "in/data/train-00001-of-00002.parquet")
        for name in ("test", "extra_1"):
            before[name].to_parquet(tmp_path / f"in/data/{name}-00000-of-00001.parquet")
        assert run_purify(tmp_path / "in", tmp_path / "out", *BOTH).exit_code == 0
        after = load_dataset(str(tmp_path / "out"))
        assert set(after) == set(before)
        for name, split in before.items():
            self.check(split, after[name], purifier)

    def test_saved_dataset(self, tmp_path, run_purify, purifier):
        before = DatasetDict({"train": self.rows(0, 4).filter(lambda row: row["id"] != 1), "test": self.rows(4, 2)})
        before.save_to_disk(tmp_path / "in")
        assert run_purify(tmp_path / "in", tmp_path / "out", "--split", "train", *BOTH).exit_code == 0
        after = load_dataset(str(tmp_path / "out"))
        assert list(after) == ["train"]
        self.check(before["train"], after["train"], purifier)

    def test_saved_dataset_that_names_files(self, tmp_path, run_purify, purifier):
        put(tmp_path / "files/a.jpg", encoded(picture(0), "JPEG"))
        before = Dataset.from_dict({"img": [str(tmp_path / "files/a.jpg"), None]}, features=Features({"img": Image()}))
        before.save_to_disk(tmp_path / "in")
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        after = load_dataset(str(tmp_path / "out"), split="train")
        self.check(before, after, purifier, columns=("img",))
        assert after.cast_column("img", Image(decode=False))[0]["img"]["path"] == "a.png"

    def test_several_columns_of_images_are_asked_for(self, tmp_path, run_purify):
        self.rows(0, 4).to_parquet(tmp_path / "in.parquet")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out.parquet")
        assert result.exit_code == 1
        assert "--column img" in result.stderr
        assert nothing_left(tmp_path, "in.parquet")

    def test_one_column(self, tmp_path, run_purify, purifier):
        before = self.rows(0, 4)
        before.to_parquet(tmp_path / "in.parquet")
        assert run_purify(tmp_path / "in.parquet", tmp_path / "out.parquet", "--column", "more").exit_code == 0
        after = Dataset.from_parquet(str(tmp_path / "out.parquet"))
        self.check(before.remove_columns("img"), after.remove_columns("img"), purifier, columns=("more",))
        raw = Image(decode=False)
        assert after.cast_column("img", raw)["img"][:] == before.cast_column("img", raw)["img"][:]

    @pytest.mark.parametrize("column", ["label", "nothing"])
    def test_wrong_column_names_the_right_ones(self, tmp_path, run_purify, column):
        self.rows(0, 2).to_parquet(tmp_path / "in.parquet")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out", "--column", column)
        assert result.exit_code == 1
        assert "['img', 'more']" in result.stderr
        assert column in result.stderr

    def test_images_in_lists_are_not_overlooked(self, tmp_path, run_purify):
        features = Features({"img": Image(), "pages": List(Image())})
        cell = {"bytes": encoded(picture(0)), "path": None}
        Dataset.from_dict({"img": [cell], "pages": [[cell]]}, features=features).to_parquet(tmp_path / "in.parquet")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out")
        assert result.exit_code == 1
        assert "pages" in result.stderr
        assert run_purify(tmp_path / "in.parquet", tmp_path / "out", "--column", "img").exit_code == 0

    def test_no_rows_and_no_images(self, tmp_path, run_purify):
        write_parquet(self.rows(0, 0), tmp_path / "empty.parquet")
        Dataset.from_dict({"x": [1]}).to_parquet(tmp_path / "numbers.parquet")
        for name, words, columns in (("empty", "empty", BOTH), ("numbers", "x (int64)", ())):
            result = run_purify(tmp_path / f"{name}.parquet", tmp_path / "out", *columns)
            assert result.exit_code == 1
            assert words in result.stderr
        assert nothing_left(tmp_path, "empty.parquet", "numbers.parquet")

    def test_a_split_without_rows_is_left_out_aloud(self, tmp_path, run_purify):
        (tmp_path / "in").mkdir()
        for name, count in (("train", 2), ("test", 0)):
            write_parquet(self.rows(0, count), tmp_path / f"in/{name}.parquet")
        result = run_purify(tmp_path / "in", tmp_path / "out", *BOTH)
        assert result.exit_code == 0
        assert "No row is left for test" in result.stderr
        assert {name: len(split) for name, split in load_dataset(str(tmp_path / "out")).items()} == {"train": 2}

    def test_a_saved_split_without_rows_is_explained(self, tmp_path, run_purify):
        DatasetDict({"train": self.rows(0, 2), "test": self.rows(0, 0)}).save_to_disk(
            tmp_path / "in", num_shards={"train": 1, "test": 1}
        )
        result = run_purify(tmp_path / "in", tmp_path / "out", *BOTH)
        # Some versions of datasets can read such a split, and others cannot.
        assert ("without any" if result.exit_code else "No row is left for test") in result.stderr

    def test_several_splits_do_not_fit_one_file(self, tmp_path, run_purify):
        DatasetDict({"train": self.rows(0, 2), "test": self.rows(0, 1)}).save_to_disk(tmp_path / "in")
        result = run_purify(tmp_path / "in", tmp_path / "out.parquet", *BOTH)
        assert result.exit_code == 1
        assert "choose a split" in result.stderr
        assert run_purify(tmp_path / "in", tmp_path / "out.parquet", "--split", "test", *BOTH).exit_code == 0

    def test_shards_and_row_groups(self, tmp_path, run_purify, purifier, monkeypatch):
        monkeypatch.setattr("puregen_transforms.whole_sets.rows.SLICE_BYTES", 8_000)
        before = self.rows(0, 100)
        before.to_parquet(tmp_path / "in.parquet", batch_size=17)
        assert run_purify(tmp_path / "in.parquet", tmp_path / "out", "--part-rows", 30, *BOTH).exit_code == 0
        assert len(tree(tmp_path / "out")) == 4
        self.check(before, load_dataset(str(tmp_path / "out"), split="train"), purifier)

    def test_not_a_parquet_file(self, tmp_path, run_purify):
        put(tmp_path / "in.parquet", "hello")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out")
        assert result.exit_code == 1
        assert "in.parquet" in result.stderr

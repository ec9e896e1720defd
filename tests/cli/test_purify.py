from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.purify import purify

app = typer.Typer()
app.command()(purify)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def run(tiny_checkpoint):
    def run(source, destination, *options):
        settings = ("--checkpoint", tiny_checkpoint, "--steps", 2, "--device", "cpu", "--dtype", "float32", *options)
        return CliRunner().invoke(app, [str(argument) for argument in (source, destination, *settings)])

    return run


@pytest.fixture
def purifier(tiny_checkpoint):
    return PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu", dtype="float32")


def picture(seed, size=(16, 12), mode="RGB"):
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def encoded(image, image_format="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **settings)
    return buffer.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tree(folder):
    """All files but the manifest of a purified folder."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if name != "purified.jsonl")


def same(image, other):
    return image.mode == other.mode and image.size == other.size and image.tobytes() == other.tobytes()


def write_parquet(dataset, path):
    """What `to_parquet` writes; older versions of datasets cannot write a set without rows."""
    pq.write_table(dataset.data.table.cast(dataset.features.arrow_schema), path)


def nothing_left(folder, *expected):
    """Whether nothing is there but what is expected, and the manifest of a purified file."""
    found = sorted(path.name for path in folder.iterdir())
    return [name for name in found if not name.endswith(".purified.jsonl")] == sorted(expected)


class TestImageFolder:
    @pytest.fixture
    def source(self, tmp_path):
        source = tmp_path / "in"
        for number, name in enumerate(("train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/deep.er.png")):
            put(source / name, encoded(picture(number, (16 + number, 12))))
        return source

    def test_layout_labels_splits_and_pixels(self, source, tmp_path, run, purifier):
        put(source / "notes.txt", "as it was")
        result = run(source, tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert tree(tmp_path / "out") == tree(source)
        assert (tmp_path / "out/notes.txt").read_text() == "as it was"
        assert "Purified 4 images" in result.stdout
        assert "load_dataset" in result.stdout
        for path in source.rglob("*.png"):
            after = PILImage.open(tmp_path / "out" / path.relative_to(source))
            assert same(after, purifier([PILImage.open(path)])[0])
            assert not same(after, PILImage.open(path))
        before, after = (load_dataset("imagefolder", data_dir=str(folder)) for folder in (source, tmp_path / "out"))
        assert list(before) == list(after)
        assert before["train"].features == after["train"].features
        assert before["test"]["label"] == after["test"]["label"]
        assert nothing_left(tmp_path, "in", "out")

    def test_same_seed_same_bytes(self, source, tmp_path, run):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            assert run(source, tmp_path / name, "--seed", seed, "--batch-size", 1 + seed).exit_code == 0
        files = [[(tmp_path / name / path).read_bytes() for path in tree(source)] for name in "abc"]
        assert files[0] == files[1] != files[2]

    def test_formats(self, tmp_path, run):
        source, image = tmp_path / "in", picture(0)
        lossless = {"a.bmp": "BMP", "b.tif": "TIFF", "c.ppm": "PPM", "d.png": "PNG"}
        for name, image_format in lossless.items():
            put(source / name, encoded(image, image_format))
        put(source / "e.webp", encoded(image, "WEBP", lossless=True))
        put(source / "f.webp", encoded(image, "WEBP"))
        put(source / "g.JPG", encoded(image, "JPEG"))
        put(source / "h.gif", encoded(image.convert("P"), "GIF"))
        put(source / "i", encoded(image, "JPEG"))
        put(source / "j.tif", encoded(image, "TIFF", compression="jpeg"))
        result = run(source, tmp_path / "out")
        assert result.exit_code == 0, result.output
        out = {name: PILImage.open(tmp_path / "out" / name).format for name in tree(tmp_path / "out")}
        assert out == {
            **lossless,
            "e.webp": "WEBP",
            "f.png": "PNG",
            "g.png": "PNG",
            "h.png": "PNG",
            "i.png": "PNG",
            "j.tif": "TIFF",
        }
        pixels = {PILImage.open(tmp_path / "out" / name).tobytes() for name in (*lossless, "e.webp")}
        assert len(pixels) == 1

    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
    def test_modes_are_kept(self, tmp_path, run, mode):
        put(tmp_path / "in/a.png", encoded(picture(0, mode=mode)))
        put(tmp_path / "in/b.tif", encoded(picture(0, mode=mode), "TIFF"))
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert [PILImage.open(tmp_path / "out" / name).mode for name in ("a.png", "b.tif")] == [mode, mode]

    def test_orientation_is_applied_and_the_color_profile_kept(self, tmp_path, run, purifier):
        exif = PILImage.Exif()
        exif[0x0112] = 6
        put(tmp_path / "in/a.png", encoded(picture(0), exif=exif, icc_profile=b"profile"))
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        after = PILImage.open(tmp_path / "out/a.png")
        assert after.size == (12, 16)
        assert not after.getexif()
        assert after.info["icc_profile"] == b"profile"
        assert same(after, purifier([picture(0).transpose(PILImage.Transpose.ROTATE_270)])[0])

    def test_camera_previews_are_no_frames(self, tmp_path, run):
        put(tmp_path / "in/a.jpg", encoded(picture(0), "MPO", save_all=True, append_images=[picture(1)]))
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["a.png"]

    def test_names_that_would_meet(self, tmp_path, run):
        for number, name in enumerate(("a.png", "a.jpg", "b.jpg", "b.jpeg", "c.jpg")):
            put(tmp_path / "in" / name, encoded(picture(number), "PNG" if name == "a.png" else "JPEG"))
        result = run(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 0
        assert tree(tmp_path / "out") == ["a.jpg.png", "a.png", "b.jpeg.png", "b.jpg.png", "c.png"]
        assert "3 of them kept the old suffix" in result.stderr

    def test_names_that_meet_all_the_same(self, tmp_path, run):
        for name in ("a.png", "a.jpg", "a.jpg.png"):
            put(tmp_path / "in" / name, encoded(picture(0), "JPEG" if name == "a.jpg" else "PNG"))
        result = run(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 1
        assert "a.jpg.png" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_metadata_csv_follows(self, tmp_path, run):
        source = tmp_path / "in"
        put(source / "train/sub/a.jpg", encoded(picture(0), "JPEG"))
        put(source / "train/b.png", encoded(picture(1)))
        put(source / "train/broken.png", b"\x89PNG\r\n nonsense")
        put(source / "train/metadata.csv", 'file_name,text\nsub/a.jpg,"one, two"\nbroken.png,gone\nb.png,3\n')
        assert run(source, tmp_path / "out", "--on-error", "skip").exit_code == 3
        with (tmp_path / "out/train/metadata.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [["file_name", "text"], ["sub/a.png", "one, two"], ["b.png", "3"]]
        opened = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
        assert opened["text"][:] == ["one, two", "3"]

    def test_metadata_jsonl_follows(self, tmp_path, run):
        for name in ("a.jpg", "b.jpg"):
            put(tmp_path / "in" / name, encoded(picture(0), "JPEG"))
        put(tmp_path / "in/metadata.jsonl", '{"file_names": ["a.jpg", "b.jpg"], "text": "é"}\n')
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert (tmp_path / "out/metadata.jsonl").read_text() == '{"file_names": ["a.png", "b.png"], "text": "é"}\n'

    def test_metadata_parquet_follows(self, tmp_path, run):
        put(tmp_path / "in/a.jpg", encoded(picture(0), "JPEG"))
        Dataset.from_dict({"file_name": ["a.jpg"], "text": ["x"]}).to_parquet(tmp_path / "in/metadata.parquet")
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert pq.read_table(tmp_path / "out/metadata.parquet").to_pylist() == [{"file_name": "a.png", "text": "x"}]

    def test_metadata_without_a_change_is_copied(self, source, tmp_path, run):
        put(source / "metadata.csv", b"file_name,x\r\ntrain/cat/a.png,1\r\n")
        assert run(source, tmp_path / "out").exit_code == 0
        assert (tmp_path / "out/metadata.csv").read_bytes() == b"file_name,x\r\ntrain/cat/a.png,1\r\n"

    def test_one_split(self, source, tmp_path, run):
        assert run(source, tmp_path / "out", "--split", "test").exit_code == 0
        assert tree(tmp_path / "out") == ["test/cat/c.png", "test/dog/deep.er.png"]
        assert not (tmp_path / "out/train").exists()
        result = run(source, tmp_path / "other", "--split", "nope")
        assert result.exit_code == 1
        assert "['test', 'train']" in result.stderr

    def test_links(self, source, tmp_path, run):
        outside = tmp_path / "outside"
        put(outside / "x.png", encoded(picture(9)))
        (source / "train/cat/linked.png").symlink_to(outside / "x.png")
        (source / "train/bird").symlink_to(outside)
        (source / "train/loop").symlink_to(source)
        assert run(source, tmp_path / "out").exit_code == 0
        assert {"train/cat/linked.png", "train/bird/x.png"} <= set(tree(tmp_path / "out"))
        assert not any("loop" in name for name in tree(tmp_path / "out"))
        assert not (tmp_path / "out/train/cat/linked.png").is_symlink()

    def test_hidden_files_stay_behind_and_empty_folders_come_along(self, source, tmp_path, run):
        put(source / ".DS_Store", "x")
        put(source / ".git/a.png", "x")
        put(source / "train/cat/._a.png", "x")
        (source / "train/empty").mkdir()
        assert run(source, tmp_path / "out").exit_code == 0
        assert len(tree(tmp_path / "out")) == 4
        assert (tmp_path / "out/train/empty").is_dir()

    def test_archive_with_images_is_refused(self, source, tmp_path, run):
        shutil.make_archive(str(source / "more"), "zip", source / "train")
        result = run(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "more.zip" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_pipes_are_refused(self, source, tmp_path, run):
        os.mkfifo(source / "pipe.png")
        result = run(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "pipe.png" in result.stderr


BAD = {
    "corrupt.png": b"\x89PNG\r\n\x1a\n but no more",
    "empty.jpg": b"",
    "truncated.jpg": encoded(picture(0, (64, 64)), "JPEG")[:600],
    "animated.gif": encoded(picture(0).convert("P"), "GIF", save_all=True, append_images=[picture(1).convert("P")]),
    "pages.tif": encoded(picture(0), "TIFF", save_all=True, append_images=[picture(1)]),
    "print.jpg": encoded(picture(0).convert("CMYK"), "JPEG"),
    "deep.png": encoded(PILImage.fromarray(np.zeros((16, 16), np.uint16))),
    "palette.png": encoded(picture(0).convert("P")),
    "dot.png": encoded(picture(0, (1, 1))),
    "phone.heic": b"\0\0\0\x18ftypheic",
}


class TestBadImages:
    @pytest.mark.parametrize("name", BAD)
    def test_stops_with_the_name_and_leaves_nothing(self, tmp_path, run, name):
        put(tmp_path / "in/a/good.png", encoded(picture(0)))
        put(tmp_path / "in/a" / name, BAD[name])
        result = run(tmp_path / "in", tmp_path / "new/out")
        assert result.exit_code == 1
        assert f"a/{name}" in result.stderr
        assert "Traceback" not in result.output
        assert nothing_left(tmp_path, "in")

    def test_skips_all_of_them(self, tmp_path, run, purifier):
        for number, (name, content) in enumerate(BAD.items()):
            put(tmp_path / "in/a" / name, content)
            put(tmp_path / f"in/a/good{number}.png", encoded(picture(number)))
        result = run(tmp_path / "in", tmp_path / "out", "--on-error", "skip")
        assert result.exit_code == 3
        listed = json.loads((tmp_path / "out/skipped.json").read_text())
        assert {row["file"] for row in listed} == {f"a/{name}" for name in BAD}
        assert all(row["reason"] for row in listed)
        assert all(f"a/{name}" in result.stderr for name in BAD)
        assert "2 frames" in result.stderr
        assert tree(tmp_path / "out") == [f"a/good{number}.png" for number in range(len(BAD))] + ["skipped.json"]
        for number in range(len(BAD)):
            assert same(PILImage.open(tmp_path / f"out/a/good{number}.png"), purifier([picture(number)])[0])

    def test_broken_link_is_a_bad_image(self, tmp_path, run):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        (tmp_path / "in/b.png").symlink_to(tmp_path / "nowhere")
        result = run(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 1
        assert "b.png" in result.stderr

    def test_nothing_good_is_an_error(self, tmp_path, run):
        put(tmp_path / "in/a.png", b"no image")
        result = run(tmp_path / "in", tmp_path / "out", "--on-error", "skip")
        assert result.exit_code == 1
        assert nothing_left(tmp_path, "in")

    def test_rows(self, tmp_path, run):
        cells = [encoded(picture(0)), BAD["corrupt.png"], encoded(picture(2))]
        features = Features({"img": Image(), "id": Value("int64")})
        Dataset.from_dict(
            {"img": [{"bytes": cell, "path": None} for cell in cells], "id": [0, 1, 2]}, features=features
        ).to_parquet(tmp_path / "in.parquet")
        result = run(tmp_path / "in.parquet", tmp_path / "out.parquet")
        assert result.exit_code == 1
        assert "row 1, column img" in result.stderr
        assert nothing_left(tmp_path, "in.parquet")
        assert run(tmp_path / "in.parquet", tmp_path / "out.parquet", "--on-error", "skip").exit_code == 3
        assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [0, 2]
        (row,) = json.loads((tmp_path / "out.skipped.json").read_text())
        assert (row["split"], row["row"], row["column"]) == ("train", 1, "img")


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

    def test_file_to_file(self, tmp_path, run, purifier):
        before = self.rows(0, 70)
        before.to_parquet(tmp_path / "in.parquet")
        result = run(tmp_path / "in.parquet", tmp_path / "out.parquet")
        assert result.exit_code == 0, result.output
        self.check(before, Dataset.from_parquet(str(tmp_path / "out.parquet")), purifier)
        assert nothing_left(tmp_path, "in.parquet", "out.parquet")

    def test_file_to_folder(self, tmp_path, run, purifier):
        before = self.rows(0, 5)
        before.to_parquet(tmp_path / "in.parquet")
        assert run(tmp_path / "in.parquet", tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["data/train-00000-of-00001.parquet"]
        self.check(before, load_dataset(str(tmp_path / "out"))["train"], purifier)

    def test_folder_of_parquet(self, tmp_path, run, purifier):
        before = {"train": self.rows(0, 6), "test": self.rows(6, 3), "extra_1": self.rows(9, 2)}
        (tmp_path / "in/data").mkdir(parents=True)
        put(tmp_path / "in/README.md", "# Set")
        before["train"].select(range(4)).to_parquet(tmp_path / "in/data/train-00000-of-00002.parquet")
        before["train"].select(range(4, 6)).to_parquet(tmp_path / "in/data/train-00001-of-00002.parquet")
        for name in ("test", "extra_1"):
            before[name].to_parquet(tmp_path / f"in/data/{name}-00000-of-00001.parquet")
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        after = load_dataset(str(tmp_path / "out"))
        assert set(after) == set(before)
        for name, split in before.items():
            self.check(split, after[name], purifier)

    def test_saved_dataset(self, tmp_path, run, purifier):
        before = DatasetDict({"train": self.rows(0, 4).filter(lambda row: row["id"] != 1), "test": self.rows(4, 2)})
        before.save_to_disk(tmp_path / "in")
        assert run(tmp_path / "in", tmp_path / "out", "--split", "train").exit_code == 0
        after = load_dataset(str(tmp_path / "out"))
        assert list(after) == ["train"]
        self.check(before["train"], after["train"], purifier)

    def test_saved_dataset_that_names_files(self, tmp_path, run, purifier):
        put(tmp_path / "files/a.jpg", encoded(picture(0), "JPEG"))
        before = Dataset.from_dict({"img": [str(tmp_path / "files/a.jpg"), None]}, features=Features({"img": Image()}))
        before.save_to_disk(tmp_path / "in")
        assert run(tmp_path / "in", tmp_path / "out").exit_code == 0
        after = load_dataset(str(tmp_path / "out"), split="train")
        self.check(before, after, purifier, columns=("img",))
        assert after.cast_column("img", Image(decode=False))[0]["img"]["path"] == "a.png"

    def test_one_column(self, tmp_path, run, purifier):
        before = self.rows(0, 4)
        before.to_parquet(tmp_path / "in.parquet")
        assert run(tmp_path / "in.parquet", tmp_path / "out.parquet", "--column", "more").exit_code == 0
        after = Dataset.from_parquet(str(tmp_path / "out.parquet"))
        self.check(before.remove_columns("img"), after.remove_columns("img"), purifier, columns=("more",))
        raw = Image(decode=False)
        assert after.cast_column("img", raw)["img"][:] == before.cast_column("img", raw)["img"][:]

    @pytest.mark.parametrize("column", ["label", "nothing"])
    def test_wrong_column_names_the_right_ones(self, tmp_path, run, column):
        self.rows(0, 2).to_parquet(tmp_path / "in.parquet")
        result = run(tmp_path / "in.parquet", tmp_path / "out", "--column", column)
        assert result.exit_code == 1
        assert "['img', 'more']" in result.stderr
        assert column in result.stderr

    def test_images_in_lists_are_not_overlooked(self, tmp_path, run):
        features = Features({"img": Image(), "pages": List(Image())})
        cell = {"bytes": encoded(picture(0)), "path": None}
        Dataset.from_dict({"img": [cell], "pages": [[cell]]}, features=features).to_parquet(tmp_path / "in.parquet")
        result = run(tmp_path / "in.parquet", tmp_path / "out")
        assert result.exit_code == 1
        assert "pages" in result.stderr
        assert run(tmp_path / "in.parquet", tmp_path / "out", "--column", "img").exit_code == 0

    def test_no_rows_and_no_images(self, tmp_path, run):
        write_parquet(self.rows(0, 0), tmp_path / "empty.parquet")
        Dataset.from_dict({"x": [1]}).to_parquet(tmp_path / "numbers.parquet")
        for name, words in (("empty", "empty"), ("numbers", "x (int64)")):
            result = run(tmp_path / f"{name}.parquet", tmp_path / "out")
            assert result.exit_code == 1
            assert words in result.stderr
        assert nothing_left(tmp_path, "empty.parquet", "numbers.parquet")

    def test_a_split_without_rows_is_left_out_aloud(self, tmp_path, run):
        (tmp_path / "in").mkdir()
        for name, count in (("train", 2), ("test", 0)):
            write_parquet(self.rows(0, count), tmp_path / f"in/{name}.parquet")
        result = run(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 0
        assert "No row is left for test" in result.stderr
        assert {name: len(split) for name, split in load_dataset(str(tmp_path / "out")).items()} == {"train": 2}

    def test_a_saved_split_without_rows_is_explained(self, tmp_path, run):
        DatasetDict({"train": self.rows(0, 2), "test": self.rows(0, 0)}).save_to_disk(
            tmp_path / "in", num_shards={"train": 1, "test": 1}
        )
        result = run(tmp_path / "in", tmp_path / "out")
        # Some versions of datasets can read such a split, and others cannot.
        assert ("without any" if result.exit_code else "No row is left for test") in result.stderr

    def test_several_splits_do_not_fit_one_file(self, tmp_path, run):
        DatasetDict({"train": self.rows(0, 2), "test": self.rows(0, 1)}).save_to_disk(tmp_path / "in")
        result = run(tmp_path / "in", tmp_path / "out.parquet")
        assert result.exit_code == 1
        assert "choose a split" in result.stderr
        assert run(tmp_path / "in", tmp_path / "out.parquet", "--split", "test").exit_code == 0

    def test_shards_and_row_groups(self, tmp_path, run, purifier, monkeypatch):
        monkeypatch.setattr("puregen_transforms.data.rows.SLICE_BYTES", 8_000)
        before = self.rows(0, 100)
        before.to_parquet(tmp_path / "in.parquet", batch_size=17)
        assert run(tmp_path / "in.parquet", tmp_path / "out", "--part-rows", 30).exit_code == 0
        assert len(tree(tmp_path / "out")) == 4
        self.check(before, load_dataset(str(tmp_path / "out"), split="train"), purifier)

    def test_not_a_parquet_file(self, tmp_path, run):
        put(tmp_path / "in.parquet", "hello")
        result = run(tmp_path / "in.parquet", tmp_path / "out")
        assert result.exit_code == 1
        assert "in.parquet" in result.stderr


def test_a_log_says_how_long_it_will_take_and_how_far_it_is(tmp_path, run):
    for number in range(12):
        put(tmp_path / f"in/{number}.png", encoded(picture(number)))
    lines = run(tmp_path / "in", tmp_path / "out", "--batch-size", 5).stderr.splitlines()
    assert lines[0].startswith("Estimate: ")
    assert lines[0].endswith(" for 12 images of about 13x13 pixels.")
    assert lines[1].startswith("purifying: 12 of 12, ")
    assert len(lines) == 2


def test_the_first_pass_says_how_far_it_is(tmp_path, run, tiny_ddpm):
    for number in range(3):
        put(tmp_path / f"in/{number}.png", encoded(picture(number, (32, 32))))
    options = ("--method", "filt", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm)
    lines = run(tmp_path / "in", tmp_path / "out", *options).stderr.splitlines()
    assert lines[0] == "First pass: measuring the energy of every image."
    assert any(line.startswith("measuring energies: 3 of 3, ") for line in lines)


class TestDestination:
    @pytest.fixture
    def source(self, tmp_path):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        return tmp_path / "in"

    def test_nothing_is_overwritten(self, source, tmp_path, run):
        put(tmp_path / "out/mine.txt", "mine")
        put(tmp_path / "file", "mine")
        for name in ("out", "file"):
            result = run(source, tmp_path / name)
            assert result.exit_code == 1
            assert "overwritten" in result.stderr
        assert tree(tmp_path) == ["file", "in/a.png", "out/mine.txt"]

    def test_an_empty_folder_is_filled(self, source, tmp_path, run):
        (tmp_path / "out").mkdir()
        assert run(source, tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["a.png"]

    def test_outside_the_source(self, source, tmp_path, run):
        (tmp_path / "link").symlink_to(source)
        for name in ("in", "in/deep/out", "link/out"):
            assert run(source, tmp_path / name).exit_code == 1
        assert tree(source) == ["a.png"]
        assert sorted(path.name for path in source.iterdir()) == ["a.png"]

    def test_a_folder_of_images_is_no_parquet_file(self, source, tmp_path, run):
        assert run(source, tmp_path / "out.parquet").exit_code == 1

    def test_read_only(self, source, tmp_path, run, monkeypatch):
        def fail(*_, **__):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("os.fsync", fail)
        result = run(source, tmp_path / "out")
        assert result.exit_code == 1
        assert f"write in {tmp_path}" in result.stderr
        assert "Read-only file system" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_disk_full_midway(self, source, tmp_path, run, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device", "out")

        monkeypatch.setattr("puregen_transforms.data.results.ResultFolder.put", fail)
        result = run(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "No space left on device" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_interrupt_leaves_nothing(self, source, tmp_path, run, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("puregen_transforms.data.results.ResultFolder.put", interrupt)
        assert run(source, tmp_path / "new/out").exit_code != 0
        assert nothing_left(tmp_path, "in")

    def test_termination_leaves_nothing(self, tmp_path, tiny_checkpoint):
        for index in range(3):
            put(tmp_path / f"in/{index}.png", encoded(picture(index, (64, 64))))
        code = (
            "import sys, typer; from puregen_transforms.cli.purify import purify; app = typer.Typer(); "
            "app.command()(purify); app()"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "in",
            "out",
            "--checkpoint",
            str(tiny_checkpoint),
            "--steps",
            "1000000",
            "--device",
            "cpu",
        ]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "out.unfinished/job.json").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM
        assert b"Traceback" not in output
        assert nothing_left(tmp_path, "in")


class TestErrors:
    @pytest.mark.parametrize("error", [ValueError, OSError, FloatingPointError, FileNotFoundError])
    def test_expected_ones_become_a_paragraph(self, capsys, error):
        with pytest.raises(typer.Exit) as exit_, explain_errors():
            raise error("Expected this,\n but got that.")
        assert exit_.value.exit_code == 1
        assert capsys.readouterr().err == "Error: Expected this, but got that.\n"

    def test_bugs_keep_their_traceback(self):
        with pytest.raises(KeyError), explain_errors():
            raise KeyError("x")


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--method", "nonsense", "nonsense"),
            ("--steps", "-1", "-1"),
            ("--device", "toaster", "toaster"),
            ("--dtype", "int3", "int3"),
            ("--batch-size", "0", "0"),
            ("--on-error", "cry", "cry"),
            ("--checkpoint", "./nowhere", "nowhere"),
        ],
    )
    def test_bad_values_are_explained(self, tmp_path, run, option, value, words):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        result = run(tmp_path / "in", tmp_path / "out", option, value)
        assert result.exit_code in (1, 2)
        assert words in result.stderr
        assert "Traceback" not in result.output
        assert isinstance(result.exception, SystemExit)
        assert nothing_left(tmp_path, "in")

    def test_no_source(self, tmp_path, run):
        (tmp_path / "empty").mkdir()
        for name in ("nowhere", "empty"):
            result = run(tmp_path / name, tmp_path / "out")
            assert result.exit_code == 1
            assert str(tmp_path / name) in result.stderr
        assert nothing_left(tmp_path, "empty")


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_filt_measures_the_whole_set_first(run, tiny_checkpoint, tiny_ddpm, tmp_path, kind):
    pictures = [picture(seed, size=(32, 32)) for seed in range(10)]
    if kind == "folder":
        source = tmp_path / "set"
        for index, image in enumerate(pictures):
            put(source / f"{index}.png", encoded(image))
    else:
        source = tmp_path / "set.parquet"
        Dataset.from_dict({"image": pictures}, features=Features({"image": Image()})).to_parquet(source)
    options = ("--method", "filt", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm, "--filter-fraction", 0.3)
    done = run(source, tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "Energy threshold" in done.stderr
    if kind == "folder":
        after = [PILImage.open(tmp_path / f"out/{index}.png") for index in range(10)]
    else:
        after = load_dataset(str(tmp_path / "out"), split="train")["image"][:]
    changed = [i for i in range(10) if np.array(after[i]).tobytes() != np.array(pictures[i]).tobytes()]
    energies = PureGen(checkpoint=tiny_checkpoint).energy(pictures)
    assert changed == sorted(energies.topk(3).indices.tolist())


def test_adaptive_says_how_many_images_resist(run, tiny_ddpm, tmp_path):
    for seed in range(5):
        put(tmp_path / f"set/{seed}.png", encoded(picture(seed, size=(32, 32))))
    options = ("--method", "adaptive", "--ddpm-steps", 2, "--ddpm-checkpoint", tiny_ddpm, "--energy-threshold", -1e6)
    done = run(tmp_path / "set", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert "Still suspicious: 5 images" in done.stderr


def test_an_option_that_the_method_does_not_use_is_an_error(run, tmp_path):
    put(tmp_path / "set/a.png", encoded(picture(0)))
    done = run(tmp_path / "set", tmp_path / "out", "--method", "ebm", "--ddpm-steps", 5)
    assert done.exit_code == 1
    assert "does not use `ddpm_steps`" in done.stderr

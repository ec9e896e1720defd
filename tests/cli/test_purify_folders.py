"""`puregen purify` on folders of images."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from PIL import Image as PILImage
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets.verify import changes_since, problems_of
from tests.cli.files import encoded, nothing_left, picture, put, same, tree


class TestImageFolder:
    @pytest.fixture
    def source(self, tmp_path):
        source = tmp_path / "in"
        for number, name in enumerate(("train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/dog/deep.er.png")):
            put(source / name, encoded(picture(number, (16 + number, 12))))
        return source

    def test_layout_labels_splits_and_pixels(self, source, tmp_path, run_purify, purifier):
        put(source / "notes.txt", "as it was")
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert tree(tmp_path / "out") == tree(source)
        assert (tmp_path / "out/notes.txt").read_text() == "as it was"
        assert "Purified 4 images" in result.stdout
        assert f'open_source("{tmp_path / "out"}")' in result.stdout
        for path in source.rglob("*.png"):
            after = PILImage.open(tmp_path / "out" / path.relative_to(source))
            assert same(after, purifier([PILImage.open(path)])[0])
            assert not same(after, PILImage.open(path))
        before, after = (load_dataset("imagefolder", data_dir=str(folder)) for folder in (source, tmp_path / "out"))
        assert list(before) == list(after)
        assert before["train"].features == after["train"].features
        assert before["test"]["label"] == after["test"]["label"]
        assert nothing_left(tmp_path, "in", "out")

    def test_same_seed_same_bytes(self, source, tmp_path, run_purify):
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            assert run_purify(source, tmp_path / name, "--seed", seed, "--batch-size", 1 + seed).exit_code == 0
        files = [[(tmp_path / name / path).read_bytes() for path in tree(source)] for name in "abc"]
        assert files[0] == files[1] != files[2]

    def test_formats(self, tmp_path, run_purify):
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
        result = run_purify(source, tmp_path / "out")
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
    def test_modes_are_kept(self, tmp_path, run_purify, mode):
        put(tmp_path / "in/a.png", encoded(picture(0, mode=mode)))
        put(tmp_path / "in/b.tif", encoded(picture(0, mode=mode), "TIFF"))
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert [PILImage.open(tmp_path / "out" / name).mode for name in ("a.png", "b.tif")] == [mode, mode]

    def test_orientation_is_applied_and_the_color_profile_kept(self, tmp_path, run_purify, purifier):
        exif = PILImage.Exif()
        exif[0x0112] = 6
        put(tmp_path / "in/a.png", encoded(picture(0), exif=exif, icc_profile=b"profile"))
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        after = PILImage.open(tmp_path / "out/a.png")
        assert after.size == (12, 16)
        assert not after.getexif()
        assert after.info["icc_profile"] == b"profile"
        assert same(after, purifier([picture(0).transpose(PILImage.Transpose.ROTATE_270)])[0])

    def test_camera_previews_are_no_frames(self, tmp_path, run_purify):
        put(tmp_path / "in/a.jpg", encoded(picture(0), "MPO", save_all=True, append_images=[picture(1)]))
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["a.png"]

    def test_names_that_would_meet(self, tmp_path, run_purify):
        for number, name in enumerate(("a.png", "a.jpg", "b.jpg", "b.jpeg", "c.jpg")):
            put(tmp_path / "in" / name, encoded(picture(number), "PNG" if name == "a.png" else "JPEG"))
        result = run_purify(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 0
        assert tree(tmp_path / "out") == ["a.jpg.png", "a.png", "b.jpeg.png", "b.jpg.png", "c.png"]
        assert "3 of them kept the old suffix" in result.stderr

    def test_names_that_meet_all_the_same(self, tmp_path, run_purify):
        for name in ("a.png", "a.jpg", "a.jpg.png"):
            put(tmp_path / "in" / name, encoded(picture(0), "JPEG" if name == "a.jpg" else "PNG"))
        result = run_purify(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 1
        assert "a.jpg.png" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_metadata_csv_follows(self, tmp_path, run_purify):
        source = tmp_path / "in"
        put(source / "train/sub/a.jpg", encoded(picture(0), "JPEG"))
        put(source / "train/b.png", encoded(picture(1)))
        put(source / "train/broken.png", b"\x89PNG\r\n nonsense")
        put(source / "train/metadata.csv", 'file_name,text\nsub/a.jpg,"one, two"\nbroken.png,gone\nb.png,3\n')
        assert run_purify(source, tmp_path / "out", "--on-error", "skip").exit_code == 3
        with (tmp_path / "out/train/metadata.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [["file_name", "text"], ["sub/a.png", "one, two"], ["b.png", "3"]]
        opened = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
        assert opened["text"][:] == ["one, two", "3"]

    def test_metadata_jsonl_follows(self, tmp_path, run_purify):
        for name in ("a.jpg", "b.jpg"):
            put(tmp_path / "in" / name, encoded(picture(0), "JPEG"))
        put(tmp_path / "in/metadata.jsonl", '{"file_names": ["a.jpg", "b.jpg"], "text": "é"}\n')
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert (tmp_path / "out/metadata.jsonl").read_text() == '{"file_names": ["a.png", "b.png"], "text": "é"}\n'

    def test_metadata_parquet_follows(self, tmp_path, run_purify):
        put(tmp_path / "in/a.jpg", encoded(picture(0), "JPEG"))
        Dataset.from_dict({"file_name": ["a.jpg"], "text": ["x"]}).to_parquet(tmp_path / "in/metadata.parquet")
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert pq.read_table(tmp_path / "out/metadata.parquet").to_pylist() == [{"file_name": "a.png", "text": "x"}]

    def test_metadata_without_a_change_is_copied(self, source, tmp_path, run_purify):
        put(source / "metadata.csv", b"file_name,x\r\ntrain/cat/a.png,1\r\n")
        assert run_purify(source, tmp_path / "out").exit_code == 0
        assert (tmp_path / "out/metadata.csv").read_bytes() == b"file_name,x\r\ntrain/cat/a.png,1\r\n"

    def test_one_split(self, source, tmp_path, run_purify):
        assert run_purify(source, tmp_path / "out", "--split", "test").exit_code == 0
        assert tree(tmp_path / "out") == ["test/cat/c.png", "test/dog/deep.er.png"]
        assert not (tmp_path / "out/train").exists()
        result = run_purify(source, tmp_path / "other", "--split", "nope")
        assert result.exit_code == 1
        assert "['test', 'train']" in result.stderr

    def test_links(self, source, tmp_path, run_purify):
        outside = tmp_path / "outside"
        put(outside / "x.png", encoded(picture(9)))
        (source / "train/cat/linked.png").symlink_to(outside / "x.png")
        (source / "train/bird").symlink_to(outside)
        (source / "train/loop").symlink_to(source)
        assert run_purify(source, tmp_path / "out", "--follow-links").exit_code == 0
        assert {"train/cat/linked.png", "train/bird/x.png"} <= set(tree(tmp_path / "out"))
        assert not any("loop" in name for name in tree(tmp_path / "out"))
        assert not (tmp_path / "out/train/cat/linked.png").is_symlink()

    def test_a_copy_made_with_links_is_compared_with_its_source(self, source, tmp_path, run_purify):
        put(tmp_path / "outside/x.png", encoded(picture(9)))
        (source / "train/bird").symlink_to(tmp_path / "outside")
        assert run_purify(source, tmp_path / "out", "--follow-links").exit_code == 0

        def verify(*options):
            return CliRunner().invoke(app, ["verify", str(tmp_path / "out"), *map(str, options)])

        assert verify("--source", source, "--follow-links").exit_code == 0
        assert verify("--source", source).exit_code == 1
        assert "--source" in verify("--follow-links").stderr
        put(tmp_path / "outside/x.png", encoded(picture(8)))
        assert "have changed" in verify("--source", source, "--follow-links").stderr

    def test_links_out_of_the_folder_are_refused_unless_asked_for(self, source, tmp_path, run_purify):
        put(tmp_path / "outside/x.png", encoded(picture(9)))
        put(tmp_path / "outside/key", "private")
        (source / "train/cat/linked.png").symlink_to(tmp_path / "outside/x.png")
        (source / "notes").symlink_to(tmp_path / "outside/key")
        (source / "train/bird").symlink_to(tmp_path / "outside")
        (source / "within.png").symlink_to(source / "train/cat/a.png")
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "--follow-links" in result.stderr
        assert not (tmp_path / "out").exists()
        assert run_purify(source, tmp_path / "out", "--on-error", "skip").exit_code == 3
        skipped = {row["file"] for row in json.loads((tmp_path / "out/skipped.json").read_text())}
        assert skipped == {"notes", "train/bird", "train/cat/linked.png"}
        assert "within.png" in tree(tmp_path / "out")

    def test_the_environment_of_a_process_is_never_copied(self, source, tmp_path, run_purify):
        (source / "notes").symlink_to("/proc/self/environ")
        assert run_purify(source, tmp_path / "out", "--follow-links").exit_code == 1

    def test_hidden_files_stay_behind_and_empty_folders_come_along(self, source, tmp_path, run_purify):
        put(source / ".DS_Store", "x")
        put(source / ".git/a.png", "x")
        put(source / "train/cat/._a.png", "x")
        (source / "train/empty").mkdir()
        assert run_purify(source, tmp_path / "out").exit_code == 0
        assert len(tree(tmp_path / "out")) == 4
        assert (tmp_path / "out/train/empty").is_dir()

    def test_hidden_images_are_spoken_of(self, source, tmp_path, run_purify):
        put(source / "train/.ipynb_checkpoints/a.png", encoded(picture(0)))
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 0
        assert "Hidden folders with images were left out: train/.ipynb_checkpoints" in result.stderr

    def test_another_order_is_spoken_of(self, tmp_path, run_purify):
        put(tmp_path / "in/a.jpg", encoded(picture(0), "JPEG"))
        put(tmp_path / "in/a.k.png", encoded(picture(1)))
        result = run_purify(tmp_path / "in", tmp_path / "out")
        assert "come in another order" in result.stderr

    def test_a_metadata_file_that_cannot_be_carried_stops_before_the_work(self, source, tmp_path, run_purify):
        put(source / "metadata.csv", "file_name,text\ntrain/cat/a.png,é\n".encode("latin-1"))
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "metadata.csv" in result.stderr
        assert "purifying" not in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_masks_that_metadata_name_are_copied_as_they_are(self, tmp_path, run_purify):
        source, mask = tmp_path / "in", encoded(picture(1).convert("P"))
        put(source / "a.jpg", encoded(picture(0), "JPEG"))
        put(source / "masks/a.png", mask)
        put(source / "metadata.csv", "file_name,mask_file_name\na.jpg,masks/a.png\n")
        refused = run_purify(source, tmp_path / "out")
        assert (refused.exit_code, "--column image" in refused.stderr) == (1, True)
        assert run_purify(source, tmp_path / "out", "--column", "image").exit_code == 0
        assert (tmp_path / "out/masks/a.png").read_bytes() == mask
        assert (tmp_path / "out/metadata.csv").read_text() == "file_name,mask_file_name\na.png,masks/a.png\n"
        assert list(problems_of(tmp_path / "out")) == []
        assert list(changes_since(tmp_path / "out", str(source))) == []

    def test_transparency_is_kept_in_every_form(self, tmp_path, run_purify):
        key = picture(0).getpixel((0, 0))
        put(tmp_path / "in/key.png", encoded(picture(0), transparency=key))
        clear = picture(0, mode="RGBA")
        put(tmp_path / "in/alpha.bmp", bitmap_with_alpha(clear.size, clear.tobytes("raw", "BGRA", 0, -1)))
        assert PILImage.open(tmp_path / "in/alpha.bmp").mode == "RGBA"
        assert run_purify(tmp_path / "in", tmp_path / "out").exit_code == 0
        assert tree(tmp_path / "out") == ["alpha.png", "key.png"]
        for name, before in (("alpha.png", clear), ("key.png", PILImage.open(tmp_path / "in/key.png"))):
            after = PILImage.open(tmp_path / "out" / name)
            assert after.getchannel("A").tobytes() == before.convert("RGBA").getchannel("A").tobytes()

    def test_archive_with_images_is_refused(self, source, tmp_path, run_purify):
        shutil.make_archive(str(source / "more"), "zip", source / "train")
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "more.zip" in result.stderr
        assert nothing_left(tmp_path, "in")

    def test_pipes_are_refused(self, source, tmp_path, run_purify):
        os.mkfifo(source / "pipe.png")
        result = run_purify(source, tmp_path / "out")
        assert result.exit_code == 1
        assert "pipe.png" in result.stderr


def bitmap_with_alpha(size, pixels):
    """A BMP file of version 4, as other programs write them: Pillow writes none with alpha."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, *size, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    info = info.ljust(108, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels


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
    def test_stops_with_the_name_and_leaves_nothing(self, tmp_path, run_purify, name):
        put(tmp_path / "in/a/good.png", encoded(picture(0)))
        put(tmp_path / "in/a" / name, BAD[name])
        result = run_purify(tmp_path / "in", tmp_path / "new/out")
        assert result.exit_code == 1
        assert f"a/{name}" in result.stderr
        assert "Traceback" not in result.output
        assert nothing_left(tmp_path, "in")

    def test_skips_all_of_them(self, tmp_path, run_purify, purifier):
        for number, (name, content) in enumerate(BAD.items()):
            put(tmp_path / "in/a" / name, content)
            put(tmp_path / f"in/a/good{number}.png", encoded(picture(number)))
        result = run_purify(tmp_path / "in", tmp_path / "out", "--on-error", "skip")
        assert result.exit_code == 3
        listed = json.loads((tmp_path / "out/skipped.json").read_text())
        assert {row["file"] for row in listed} == {f"a/{name}" for name in BAD}
        assert all(row["reason"] for row in listed)
        assert all(f"a/{name}" in result.stderr for name in BAD)
        assert "2 frames" in result.stderr
        assert tree(tmp_path / "out") == [f"a/good{number}.png" for number in range(len(BAD))] + ["skipped.json"]
        for number in range(len(BAD)):
            assert same(PILImage.open(tmp_path / f"out/a/good{number}.png"), purifier([picture(number)])[0])

    def test_broken_link_is_a_bad_image(self, tmp_path, run_purify):
        put(tmp_path / "in/a.png", encoded(picture(0)))
        (tmp_path / "in/b.png").symlink_to(tmp_path / "nowhere")
        result = run_purify(tmp_path / "in", tmp_path / "out")
        assert result.exit_code == 1
        assert "b.png" in result.stderr

    def test_nothing_good_is_an_error(self, tmp_path, run_purify):
        put(tmp_path / "in/a.png", b"no image")
        result = run_purify(tmp_path / "in", tmp_path / "out", "--on-error", "skip")
        assert result.exit_code == 1
        assert nothing_left(tmp_path, "in")

    def test_rows(self, tmp_path, run_purify):
        cells = [encoded(picture(0)), BAD["corrupt.png"], encoded(picture(2))]
        features = Features({"img": Image(), "id": Value("int64")})
        Dataset.from_dict(
            {"img": [{"bytes": cell, "path": None} for cell in cells], "id": [0, 1, 2]}, features=features
        ).to_parquet(tmp_path / "in.parquet")
        result = run_purify(tmp_path / "in.parquet", tmp_path / "out.parquet")
        assert result.exit_code == 1
        assert "row 1, column img" in result.stderr
        assert nothing_left(tmp_path, "in.parquet")
        assert run_purify(tmp_path / "in.parquet", tmp_path / "out.parquet", "--on-error", "skip").exit_code == 3
        assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [0, 2]
        (row,) = json.loads((tmp_path / "out.skipped.json").read_text())
        assert (row["split"], row["row"], row["column"]) == ("train", 1, "img")

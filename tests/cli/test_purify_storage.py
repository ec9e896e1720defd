"""`puregen purify` with --convert, --keep-names, --format and --quality."""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.encoding import jpeg_quality
from puregen_transforms.whole_sets.verify import changes_since, problems_of
from tests.cli.files import encoded, picture, put, same, tree


def can_be_read(data):
    try:
        PILImage.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def animation(kind):
    frames = [picture(number) for number in range(2)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


REFUSED = {
    "palette.png": encoded(picture(0).quantize(16)),
    "clear.png": encoded(picture(1).quantize(16), transparency=3),
    "drawing.png": encoded(picture(2).convert("1")),
    "print.jpg": encoded(picture(3, mode="CMYK"), "JPEG", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200),
    "lab.tif": encoded(picture(4).convert("LAB"), "TIFF"),
    "video.tif": encoded(picture(5).convert("YCbCr"), "TIFF"),
    "moving.gif": animation("GIF"),
    "moved.png": animation("PNG"),
    "moves.webp": animation("WEBP"),
    "pages.tif": animation("TIFF"),
}
"""Images that are refused unless they are converted."""
if not can_be_read(REFUSED["video.tif"]):  # Pillow 12.2 cannot read what it has written
    del REFUSED["video.tif"]

TAKEN = {
    "still.gif": encoded(picture(6).quantize(16), "GIF"),
    "gray.png": encoded(picture(7, mode="L")),
    "seen through.png": encoded(picture(8, mode="RGBA")),
    "photo.jpg": encoded(picture(9), "JPEG"),
}
DEEP = encoded(PILImage.fromarray(np.full((12, 16), 30_000, np.uint16)))


def as_torchvision(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PILImage.open(io.BytesIO(data)).convert("RGB")


def named(folder, name):
    """The image of a copy, whatever its ending has become."""
    (found,) = [path for path in folder.iterdir() if path.stem == Path(name).stem]
    return PILImage.open(found)


class TestConvert:
    @pytest.fixture
    def source(self, tmp_path):
        for name, data in {**REFUSED, **TAKEN}.items():
            put(tmp_path / "in" / name, data)
        return tmp_path / "in"

    def test_what_would_be_refused_is_read_as_torchvision_reads_it(self, source, tmp_path, run_purify, purifier):
        assert run_purify(source, tmp_path / "skipped", "--on-error", "skip").exit_code == 3
        skipped = json.loads((tmp_path / "skipped/skipped.json").read_text())
        assert {row["file"] for row in skipped} == {*REFUSED}
        done = run_purify(source, tmp_path / "out", "--convert")
        assert done.exit_code == 0, done.output
        for name, data in REFUSED.items():
            assert same(named(tmp_path / "out", name), purifier(as_torchvision(data))), name
        for name in TAKEN:
            assert same(named(tmp_path / "out", name), named(tmp_path / "skipped", name)), name
        assert "icc_profile" not in named(tmp_path / "out", "print.jpg").info, "it is one of ink"
        assert list(problems_of(tmp_path / "out")) == []
        assert list(changes_since(tmp_path / "out", str(source))) == []

    def test_images_of_16_bits_are_refused_all_the_same(self, source, tmp_path, run_purify):
        put(source / "deep.png", DEEP)
        assert "I;16" in run_purify(source, tmp_path / "out", "--convert").stderr
        assert run_purify(source, tmp_path / "out", "--convert", "--on-error", "skip").exit_code == 3
        assert [row["file"] for row in json.loads((tmp_path / "out/skipped.json").read_text())] == ["deep.png"]

    @pytest.mark.parametrize("way", ["table", "stream", "torch"])
    def test_every_kind_of_data_set_is_converted(self, tmp_path, way):
        kinds = ["palette.png", "drawing.png", "print.jpg"] + (["moving.gif"] if way != "torch" else [])
        cells = [{"bytes": REFUSED[name], "path": name} for name in kinds]
        rows = Dataset.from_dict({"image": cells}, features=Features({"image": Image()}))
        data = [(PILImage.open(io.BytesIO(cell["bytes"])), 0) for cell in cells]
        source = {"table": rows, "stream": rows.to_iterable_dataset(), "torch": data}[way]
        purifier = PureGen("jpeg", jpeg_quality=50)
        with pytest.raises(ValueError, match=r"mode"):
            purify_dataset(source, purifier, output_dir=tmp_path / "refused")
        clean = purify_dataset(source, purifier, output_dir=tmp_path / "out", convert=True)
        found = [row[0] if way == "torch" else row["image"] for row in clean]
        for name, image in zip(kinds, found, strict=True):
            assert same(image, purifier(as_torchvision(REFUSED[name]))), name

    def test_the_first_pass_of_a_threshold_reads_them_too(self, source, tmp_path, run_purify, tiny_ddpm):
        options = ("--convert", "--method", "filt", "--ddpm-checkpoint", tiny_ddpm, "--ddpm-steps", 1)
        done = run_purify(source, tmp_path / "out", *options)
        assert done.exit_code == 0, done.output


FILES = {
    "a.jpg": encoded(picture(0), "JPEG"),
    "b.JPEG": encoded(picture(1, mode="L"), "JPEG"),
    "c.png": encoded(picture(2, mode="RGBA")),
    "d.webp": encoded(picture(3), "WEBP"),
    "e.bmp": encoded(picture(4), "BMP"),
    "f.tiff": encoded(picture(5, mode="LA"), "TIFF"),
    "g": encoded(picture(6), "JPEG"),
    "h.jpg": encoded(picture(7)),
}
KEPT = {"a.jpg": "JPEG", "b.JPEG": "JPEG", "c.png": "PNG", "d.webp": "WEBP", "e.bmp": "BMP", "f.tiff": "TIFF"}
KEPT |= {"g": "JPEG", "h.jpg": "JPEG"}
"""The format that each has to be in, by its name."""


def as_jpeg(image, quality):
    return PILImage.open(io.BytesIO(encoded(image, "JPEG", quality=quality, subsampling=0)))


class TestNames:
    @pytest.fixture
    def source(self, tmp_path):
        for name, data in FILES.items():
            put(tmp_path / "in" / name, data)
        put(tmp_path / "in/metadata.csv", "".join(f"{name},{name}\n" for name in ("file_name", *FILES)))
        put(tmp_path / "in/boxes.json", json.dumps(sorted(FILES)))
        return tmp_path / "in"

    def test_kept_names_have_the_format_that_they_say(self, source, tmp_path, run_purify, purifier):
        done = run_purify(source, tmp_path / "out", "--keep-names")
        assert done.exit_code == 0, done.output
        assert tree(tmp_path / "out") == tree(source)
        assert (tmp_path / "out/metadata.csv").read_bytes() == (source / "metadata.csv").read_bytes()
        assert json.loads((tmp_path / "out/boxes.json").read_text()) == sorted(KEPT)
        for name, kind in KEPT.items():
            found, expected = PILImage.open(tmp_path / "out" / name), purifier(PILImage.open(source / name))
            assert found.format == kind
            assert same(found, as_jpeg(expected, 95) if kind == "JPEG" else expected), name
        assert "4 images were written as JPEG, which loses some detail" in done.stderr
        assert list(problems_of(tmp_path / "out")) == []
        assert list(changes_since(tmp_path / "out", str(source))) == []

    def test_a_format_for_all_and_metadata_that_follow(self, source, tmp_path, run_purify, purifier):
        for name in ("c.png", "f.tiff"):
            (source / name).unlink()
        put(source / "metadata.csv", "file_name,text\na.jpg,first\ne.bmp,second\n")
        done = run_purify(source, tmp_path / "out", "--format", "jpeg", "--quality", 80)
        assert done.exit_code == 0, done.output
        names = {"a.jpg": "a.jpg", "b.JPEG": "b.JPEG", "d.webp": "d.jpg", "e.bmp": "e.jpg", "g": "g.jpg"}
        assert {*tree(tmp_path / "out")} == {*names.values(), "h.jpg", "metadata.csv", "boxes.json"}
        for name, target in names.items():
            found = PILImage.open(tmp_path / "out" / target)
            assert jpeg_quality(found) == 80
            assert found.layer[0][1:3] == (1, 1), "colors at full resolution"
            assert same(found, as_jpeg(purifier(PILImage.open(source / name)), 80))
        with (tmp_path / "out/metadata.csv").open(newline="") as file:
            assert [row["file_name"] for row in csv.DictReader(file)] == ["a.jpg", "e.jpg"]
        assert "3 images were written as .jpg, under a new name." in done.stderr
        assert list(changes_since(tmp_path / "out", str(source))) == []

    @pytest.mark.parametrize(("kind", "ending"), [("webp", ".webp"), ("png", ".png")])
    def test_formats_without_loss(self, source, tmp_path, run_purify, purifier, kind, ending):
        for name in ("b.JPEG", "f.tiff"):
            (source / name).unlink()
        (source / "metadata.csv").unlink()
        assert run_purify(source, tmp_path / "out", "--format", kind).exit_code == 0
        names = [name for name in tree(tmp_path / "out") if name != "boxes.json"]
        assert {Path(name).suffix for name in names} == {ending}
        for name in ("a.jpg", "c.png", "d.webp", "e.bmp", "g", "h.jpg"):
            found = PILImage.open(tmp_path / "out" / (Path(name).stem + ending))
            assert found.format == kind.upper()
            assert same(found, purifier(PILImage.open(source / name))), name

    def test_what_a_format_cannot_hold_is_refused_before_the_work_or_converted(self, source, tmp_path, run_purify):
        for kind, name, what in (("jpeg", "c.png", "transparency"), ("webp", "b.JPEG", "images in gray")):
            result = run_purify(source, tmp_path / "out", "--format", kind)
            assert result.exit_code == 1
            assert name in result.stderr
            assert f"cannot hold {what}" in result.stderr
            assert not (tmp_path / "out").exists()
            assert run_purify(source, tmp_path / kind, "--format", kind, "--convert").exit_code == 0
            assert named(tmp_path / kind, name).mode == "RGB"
        put(source / "z.gif", encoded(picture(0).quantize(16), "GIF"))
        result = run_purify(source, tmp_path / "out", "--keep-names")
        assert "not as .gif" in result.stderr

    def test_names_that_would_meet_keep_their_old_ending_too(self, tmp_path, run_purify):
        for name in ("a.jpg", "a.png", "a.jpeg"):
            put(tmp_path / "in" / name, FILES["a.jpg"])
        assert run_purify(tmp_path / "in", tmp_path / "out", "--format", "webp").exit_code == 0
        assert tree(tmp_path / "out") == ["a.jpeg.webp", "a.jpg.webp", "a.png.webp"]

    @pytest.mark.parametrize(
        ("options", "names", "kinds"),
        [
            ({"keep_names": True}, ["a.jpg", "c.png", "d.webp", None], ["JPEG", "PNG", "WEBP", "PNG"]),
            ({"image_format": "webp"}, ["a.webp", "c.webp", "d.webp", None], ["WEBP"] * 4),
            ({"image_format": "jpeg"}, ["a.jpg", "c.jpg", "d.jpg", None], ["JPEG"] * 4),
            ({}, ["a.png", "c.png", "d.png", None], ["PNG"] * 4),
        ],
    )
    def test_images_in_tables_are_stored_the_same_way(self, tmp_path, options, names, kinds):
        cells = [{"bytes": FILES[name], "path": name} for name in ("a.jpg", "c.png", "d.webp")]
        cells[1]["bytes"] = FILES["e.bmp"]
        cells.append({"bytes": FILES["a.jpg"], "path": None})
        features = Features({"image": Image(), "text": Value("string")})
        rows = Dataset.from_dict({"image": cells, "text": [*"abcd"]}, features=features)
        purifier = PureGen("jpeg", jpeg_quality=50)
        clean = purify_dataset(rows, purifier, output_dir=tmp_path / "out", **options)
        stored = clean.cast_column("image", Image(decode=False))["image"]
        assert [cell["path"] for cell in stored] == names
        assert [PILImage.open(io.BytesIO(cell["bytes"])).format for cell in stored] == kinds
        assert clean["text"] == [*"abcd"]
        assert list(problems_of(tmp_path / "out")) == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--keep-names", "--format", "png"), "got both"),
            (("--quality", 90), "got it alone"),
            (("--format", "webp", "--quality", 90), "got it alone"),
            (("--engine", "ray", "--keep-names"), "--keep-names"),
        ],
    )
    def test_options_that_contradict_each_other(self, source, tmp_path, run_purify, options, message):
        result = run_purify(source, tmp_path / "out", *options)
        assert result.exit_code == 1
        assert message in result.stderr

    def test_a_copy_that_is_begun_keeps_its_way_of_storing(self, source, tmp_path, run_purify):
        assert run_purify(source, tmp_path / "out", "--keep-names").exit_code == 0
        assert "complete already" in run_purify(source, tmp_path / "out", "--keep-names", "--quality", 95).stderr
        other = run_purify(source, tmp_path / "out", "--keep-names", "--quality", 90)
        assert "storage, quality was 95 and is 90" in other.stderr


def test_a_folder_of_which_nothing_can_be_stored_is_refused_in_words(tmp_path, run_purify):
    put(tmp_path / "in/a.png", encoded(picture(0, mode="RGBA")))
    result = run_purify(tmp_path / "in", tmp_path / "out", "--format", "jpeg", "--on-error", "skip")
    assert result.exit_code == 1
    assert "Expected at least one image that can be repaired" in result.stderr

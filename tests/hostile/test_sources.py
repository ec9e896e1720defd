"""Sources from strangers: nothing is read beside them, and nothing small fills the memory."""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.data.archives import archives_images
from puregen_transforms.data.cells import Places
from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.data.images import FORMATS, ImageProblemError, decode, look_at, read_header
from puregen_transforms.data.labels import class_indices
from puregen_transforms.data.pictures import Pictures
from puregen_transforms.data.sources import open_source, open_tables
from puregen_transforms.whole_sets.torch_sets import PurifiedDataset

IMAGE = Features(image=ImageFeature())


def png(color: str = "red", side: int = 16) -> bytes:
    Image.new("RGB", (side, side), color).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def rows(*cells: object) -> Dataset:
    return Dataset.from_dict({"image": [{"bytes": png(), "path": None}, *cells]}, features=IMAGE)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def large_png(side: int) -> bytes:
    """A small file whose header says that it holds a large picture."""
    data = zlib.compress(bytes(100))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


class TestDecoder:
    def test_programs_are_no_images(self, monkeypatch):
        started = []
        monkeypatch.setattr("subprocess.Popen", lambda *words, **options: started.append(words))
        script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
        for read in (decode, look_at, lambda data: read_header(io.BytesIO(data))):
            with pytest.raises(ImageProblemError, match="no image in a format"):
                read(script)
        assert not started
        assert "EPS" not in FORMATS

    def test_the_size_is_read_before_the_pixels(self, monkeypatch):
        monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
        with pytest.raises(ImageProblemError, match="3000x3000"):
            decode(large_png(3_000))
        with pytest.raises(ImageProblemError, match="9000x9000"):
            look_at(large_png(9_000))

    def test_common_formats_are_decoded_as_before(self):
        for image_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "AVIF"):
            Image.new("RGB", (16, 16), "red").save(file := io.BytesIO(), image_format)
            assert look_at(file.getvalue()).convert("RGB").size == (16, 16), image_format

    def test_of_frames_only_the_first_is_looked_at(self):
        frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
        frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
        assert look_at(file.getvalue()).convert("RGB").getpixel((4, 4)) == (255, 0, 0)
        with pytest.raises(ImageProblemError, match="2 frames"):
            decode(file.getvalue())


class TestCells:
    @pytest.fixture
    def private(self, tmp_path):
        (tmp_path / "home").mkdir()
        (tmp_path / "home/private.png").write_bytes(png("blue"))
        (tmp_path / "set").mkdir()
        (tmp_path / "set/own.png").write_bytes(png("green"))
        (tmp_path / "set/link.png").symlink_to(tmp_path / "home/private.png")
        return tmp_path / "home/private.png"

    def test_a_single_file_names_no_others_unless_it_may(self, private, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path / "set")
        refused = (str(private), "../home/private.png", "/dev/zero", "http://127.0.0.1:9/x.png", "hf://x/y")
        own = ("own.png", str(tmp_path / "set/own.png"))
        cells = [{"bytes": None, "path": path} for path in (*own, *refused)]
        table = pa.table({"image": [{"bytes": png(), "path": None}, *cells]}, schema=IMAGE.arrow_schema)
        pq.write_table(table, tmp_path / "set/a.parquet")
        source = str(tmp_path / "set/a.parquet")
        with pytest.raises(ValueError, match="only what is stored in it is read; --follow-links"):
            purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "no")
        copy = purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out", on_error="skip")["train"]
        assert len(copy) == 1
        opened = open_source(source)["train"]
        stored = Pictures(opened, "image", places=Places.of_source(source, follow_links=True))
        assert stored[1].getpixel((0, 0)) == stored[2].getpixel((0, 0)) == (0, 128, 0)
        for row in range(3, len(stored)):
            with pytest.raises(ValueError, match="not stored in the table"):
                stored[row]

    def test_a_folder_s_rows_name_files_below_it(self, private, tmp_path):
        places = Places.of_source(str(tmp_path / "set"))
        assert places.read({"bytes": None, "path": "own.png"}) == png("green")
        for path in (str(private), "../home/private.png", "link.png", "/dev/zero", "http://127.0.0.1:9/x.png"):
            with pytest.raises(ImageProblemError, match="no such file below"):
                places.read({"bytes": None, "path": path})

    def test_a_data_set_in_memory_may_name_what_it_likes(self, private):
        stored = Pictures(rows({"bytes": None, "path": str(private)}), "image", places=Places())
        assert stored[1].getpixel((0, 0)) == (0, 0, 255)

    def test_images_of_a_folder_are_read_and_links_out_of_it_refused(self, private, tmp_path):
        with pytest.raises(ValueError, match="link.png.*link out of the folder"):
            ImageSet.load(str(tmp_path / "set"))
        (tmp_path / "set/link.png").unlink()
        opened = open_source(str(tmp_path / "set"))["train"]
        assert Pictures(opened, "image", places=Places.of_source(str(tmp_path / "set")))[0].size == (16, 16)

    def test_metadata_lead_nowhere_and_do_without_links_that_are_left_out(self, private, tmp_path):
        (tmp_path / "set/metadata.csv").write_text("file_name,text\nown.png,a\nlink.png,b\n")
        purify_dataset(str(tmp_path / "set"), PureGen("jpeg"), output_dir=tmp_path / "out", on_error="skip")
        assert (tmp_path / "out/metadata.csv").read_text().split() == ["file_name,text", "own.png,a"]
        (tmp_path / "set/link.png").unlink()
        (tmp_path / "set/metadata.csv").write_text("file_name,text\nown.png,a\n../home/private.png,b\n")
        for read in (open_source, lambda source: purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "no")):
            with pytest.raises(ValueError, match="names of images below its folder"):
                read(str(tmp_path / "set"))

    def test_deep_metadata_are_damaged_ones(self, private, tmp_path):
        (tmp_path / "set/link.png").unlink()
        (tmp_path / "set/metadata.jsonl").write_text("[" * 100_000 + "]" * 100_000)
        with pytest.raises(ValueError, match="to be a .jsonl file"):
            open_source(str(tmp_path / "set"))

    @pytest.mark.parametrize(
        "change",
        [
            {"forms": ["pil", "tensor 0 load"]},
            {"forms": ["pil"]},
            {"kind": "set"},
            {"names": [["image"], "label"]},
            {"names": ["image", "other"]},
            {"forms": ["int64", "int64"]},
            {"inputs": ["nothing"]},
        ],
    )
    def test_a_copy_of_torch_samples_cannot_ask_for_other_forms(self, tmp_path, change):
        purify_dataset([(Image.new("RGB", (8, 8)), 1)], PureGen("jpeg", seed=0), output_dir=tmp_path / "out")
        manifest = tmp_path / "out/purified.jsonl"
        first, *rest = manifest.read_text().splitlines()
        settings = json.loads(first)
        settings["source"]["sample"].update(change)
        manifest.write_text("\n".join([json.dumps(settings), *rest]) + "\n")
        with pytest.raises(ValueError, match="Expected the (layout|columns)"):
            PurifiedDataset(tmp_path / "out")


class TestTables:
    @pytest.mark.parametrize("split", ["../private", "../../../x/train", "/x", "a/b", "", 3])
    def test_splits_lead_nowhere(self, tmp_path, split):
        rows().save_to_disk(tmp_path / "private")
        DatasetDict(train=rows()).save_to_disk(tmp_path / "set")
        (tmp_path / "set/dataset_dict.json").write_text(json.dumps({"splits": ["train", split]}))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match="Expected splits named by letters"):
            purify_dataset(str(tmp_path / "set"), PureGen("jpeg"), output_dir=tmp_path / "out")
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("name", ["../private/data-00000-of-00001.arrow", "/etc/passwd", 3, "nowhere.arrow"])
    def test_saved_sets_name_their_own_files(self, tmp_path, name):
        rows().save_to_disk(tmp_path / "private")
        rows().save_to_disk(tmp_path / "set")
        state = json.loads((tmp_path / "set/state.json").read_text())
        (tmp_path / "set/state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match="Expected"):
            open_tables(str(tmp_path / "set"))

    def test_offsets_out_of_an_arrow_file_are_found(self, tmp_path):
        features = Features(image=ImageFeature(), label=Value("string"))
        cells = [{"bytes": png(), "path": None}] * 3
        Dataset.from_dict({"image": cells, "label": ["A" * 4567, "B", "C"]}, features=features).save_to_disk(
            tmp_path / "set"
        )
        file = next((tmp_path / "set").glob("*.arrow"))
        data = file.read_bytes()
        place = data.rindex(struct.pack("<iii", 0, 4567, 4568))
        file.write_bytes(data[:place] + struct.pack("<iii", 0, 30_000_000, 30_000_001) + data[place + 12 :])
        with pytest.raises(ValueError, match="damaged"):
            open_tables(str(tmp_path / "set"))

    @pytest.mark.parametrize("path", ["../private/*.parquet", "http://127.0.0.1:9/a.parquet", "~/x", "b.parquet"])
    @pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
    def test_what_the_card_of_a_folder_names_is_not_followed(self, tmp_path, path, name):
        (tmp_path / "private").mkdir()
        rows(None).to_parquet(tmp_path / "private/b.parquet")
        (tmp_path / "set").mkdir()
        rows().to_parquet(tmp_path / "set/a.parquet")
        config = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{path}'\n"
        (tmp_path / "set" / name).write_text(f"---\n{config}---\n" if name == "README.md" else config)
        for opened in (open_source(str(tmp_path / "set")), open_tables(str(tmp_path / "set"))):
            assert set(opened) == {"train"}
        assert open_source(str(tmp_path / "set"))["train"].num_rows == 1
        assert open_tables(str(tmp_path / "set"))["train"].rows == 1

    def test_notes_of_the_wrong_kind_are_refused(self, tmp_path):
        rows().to_parquet(tmp_path / "a.parquet")
        table = pq.read_table(tmp_path / "a.parquet")
        for note in (3, {"info": {"features": 3}}, {"info": {"features": {"image": {"_type": 3}}}}):
            metadata = {b"huggingface": json.dumps(note).encode()}
            pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "b.parquet")
            for opened in (open_source, open_tables):
                with pytest.raises((ValueError, OSError)):
                    opened(str(tmp_path / "b.parquet"))

    def test_local_data_are_no_server_s_business(self, tmp_path):
        rows().to_parquet(tmp_path / "a.parquet")
        asked = []

        def hook(event, arguments):
            if event == "socket.connect" and watching:
                asked.append(arguments)

        watching = True
        sys.addaudithook(hook)
        open_source(str(tmp_path / "a.parquet"))
        watching = False
        assert not asked


def test_a_huge_label_does_not_make_so_many_classes():
    with pytest.raises(ValueError, match="below 262,144"):
        class_indices([0, 10**10])
    with pytest.raises(ValueError, match="below 262,144"):
        class_indices(np.array([0, 2**63 + 1], dtype=np.uint64))


def test_archives_with_images_are_known_and_what_only_looks_like_one_is_none(tmp_path):
    def written(name, data):
        (tmp_path / name).write_bytes(data)
        return archives_images(tmp_path / name, data[:16])

    for mode in ("", "gz", "bz2", "xz"):
        with tarfile.open(tmp_path / "a.tar", f"w:{mode}") as archive:
            archive.addfile(tarfile.TarInfo("x/a.png"), io.BytesIO())
        assert archives_images(tmp_path / "a.tar", (tmp_path / "a.tar").read_bytes()[:16]), mode
    for name, data in {
        "notes.tar.txt": b"no archive",
        "x.tar.gz": b"",
        "y.tar.gz": b"\x1f\x8b\x08damaged",
        "x.zip": b"PK\x03\x04" + bytes(50) + b"PK\x05\x06" + b"\xff" * 18,
    }.items():
        assert not written(name, data), name

"""No small file fills the memory: files of at most 1 MB that are large once they are opened, through the commands."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from PIL import Image

from tests.hostile.test_sources import chunk, png

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
LARGEST_FILE = 2**20
MOST = 512
"""MB that a hostile file may take beyond what the same command takes for small images. Importing torch, torchvision and
datasets takes 0.8 to 1.0 GB by itself."""


@dataclass
class Ran:
    """How a command ended, and the most memory that it held, in MB."""

    code: int
    output: str
    peak: int


def run(*words: object) -> Ran:
    command = [sys.executable, "-m", "puregen_transforms.cli.main", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert "Traceback" not in output, output
    return Ran(process.returncode, output, used.ru_maxrss // 1024)


def plain_png(width: int, height: int) -> bytes:
    """A whole PNG of one color: RGBA, packed 1,000 times smaller than its pixels."""
    packer, row = zlib.compressobj(9), b"\0" + bytes(4 * width)
    data = b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 6, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text_png() -> bytes:
    """A small picture with 900 MB of text."""
    text = b"Comment\0\0" + zlib.compress(bytes(900 * 2**20), 9)
    usual = png(side=32)
    return usual[:33] + chunk(b"zTXt", text) + usual[33:]


def saved(image_format: str, side: int, **settings: object) -> bytes:
    Image.new("L" if image_format == "JPEG" else "RGB", (side, side)).save(
        file := io.BytesIO(), image_format, **settings
    )
    return file.getvalue()


def many_frames() -> bytes:
    frames = [Image.new("P", (2000, 2000), number % 7) for number in range(60)]
    frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of small images, and the same with hostile files."""
    top = tmp_path_factory.mktemp("memory")
    hostile = {
        "png": plain_png(13_300, 13_300),
        "at-the-limit.png": plain_png(2_048, 2_048).ljust(LARGEST_FILE, b"\0"),
        "text.png": text_png(),
        "webp": saved("WEBP", 16_383),
        "jpeg": saved("JPEG", 9_000, quality=1),
        "tiff": saved("TIFF", 13_000, compression="tiff_adobe_deflate"),
        "gif": many_frames(),
    }
    for folder in ("small", "hostile"):
        (top / folder / "class").mkdir(parents=True)
        for number in range(60):
            (top / folder / "class" / f"{number}.png").write_bytes(png(f"#{number:02x}1090", side=32))
    for name, data in hostile.items():
        assert len(data) <= LARGEST_FILE, name
        (top / "hostile/class" / f"large.{name}").write_bytes(data)
    return top / "small", top / "hostile"


@pytest.fixture
def thorough(request) -> None:
    """Leave a test to runs with `--fuzz`."""
    if not request.config.getoption("--fuzz"):
        pytest.skip("takes half a minute and more: --fuzz")


def test_purify_and_verify(folders, tmp_path):
    check_purify(folders, tmp_path, "--method", "jpeg")
    usual, large = (run("verify", tmp_path / folder.name, "--source", folder) for folder in folders)
    assert large.code == 0, large.output
    assert large.peak < usual.peak + MOST


@pytest.mark.parametrize("method", [["ebm", "--steps", "1"], ["ddpm", "--ddpm-steps", "1"]], ids=lambda words: words[0])
def test_networks(folders, tmp_path, method, thorough):
    check_purify(folders, tmp_path, "--method", *method)


def check_purify(folders: tuple[Path, Path], target: Path, *words: str) -> None:
    runs = (run("purify", folder, target / folder.name, "--on-error", "skip", *words) for folder in folders)
    usual, large = runs
    assert usual.code == 0, usual.output
    assert large.code == 3, large.output  # something was left out
    assert (target / "hostile/class/large.at-the-limit.png").exists()
    assert large.peak < usual.peak + MOST


@pytest.mark.parametrize("command", ["detect", "inspect"])
def test_searches(folders, tmp_path, command, thorough):
    usual, large = (run(command, folder, "--budget", "2m", "--output", tmp_path / folder.name) for folder in folders)
    assert usual.code == 0, usual.output
    assert large.peak < usual.peak + MOST


def table_of(cells: list[bytes], target: Path, **options: object) -> Path:
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a", "b"]))
    rows = {"image": [{"bytes": cell, "path": None} for cell in cells], "label": [row % 2 for row in range(len(cells))]}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), target, **options)
    return target


def test_tables(tmp_path, thorough):
    """Columns that are packed a thousand times smaller: one cell of 600 MB, or the same picture 8,000 times."""
    small = [png(f"#{number:02x}1090", side=32) for number in range(60)]
    usual_table = table_of(small, tmp_path / "usual.parquet")
    usual = run("purify", usual_table, tmp_path / "usual", "--method", "jpeg", "--on-error", "skip")
    assert usual.code == 0, usual.output
    one = [*small, small[0] + bytes(600 * 2**20)]
    repeated = [*small, *[small[0] + bytes(2**16)] * 8_000]
    for name, cells in {"one": one, "repeated": repeated}.items():
        table = table_of(cells, tmp_path / f"{name}.parquet", compression="zstd", use_dictionary=name == "repeated")
        assert table.stat().st_size <= LARGEST_FILE
        large = run("purify", table, tmp_path / name, "--method", "jpeg", "--on-error", "skip")
        assert large.code in (0, 1, 3), large.output
        assert large.peak < usual.peak + MOST, (name, large.peak, usual.peak)


def test_lists_and_records(tmp_path, thorough):
    """Text that is packed, nested, or names itself large."""
    (tmp_path / "set/class").mkdir(parents=True)
    for number in range(60):
        (tmp_path / f"set/class/{number}.png").write_bytes(png(f"#{number:02x}1090", side=32))
    usual = run("purify", tmp_path / "set", tmp_path / "usual", "--method", "jpeg")
    (tmp_path / "set/metadata.jsonl").write_text("[" * 2**19 + "]" * 2**19)
    (tmp_path / "set/dataset_infos.json").write_text(json.dumps({"x": "y" * (2**20 - 100)}))
    (tmp_path / "set/notes.csv.gz").write_bytes(gzip.compress(bytes(900 * 2**20)))
    large = run("purify", tmp_path / "set", tmp_path / "large", "--method", "jpeg", "--on-error", "skip")
    assert large.code in (0, 1, 3), large.output
    assert large.peak < usual.peak + MOST

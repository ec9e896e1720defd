"""Work is gone on with only where it is this user's own, and whole."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from puregen_transforms import PureGen, purify_dataset

DAMAGED = {
    "no run's": {"parts/a.json": "{}"},
    "no settings": {"job.json": "[]"},
    "deep settings": {"job.json": "[" * 100_000},
    "settings without a source": {"job.json": json.dumps({"purifier": {}})},
}


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16), "red").save(tmp_path / "in/a.png")
    return str(tmp_path / "in")


@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED)
def test_damaged_or_foreign_work_is_left_alone(source, tmp_path, files):
    for name, text in files.items():
        (tmp_path / "out.unfinished" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out.unfinished" / name).write_text(text)
    with pytest.raises((ValueError, FileExistsError), match="out.unfinished"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    for name, text in files.items():
        assert (tmp_path / "out.unfinished" / name).read_text() == text


def test_a_link_in_its_place_is_not_followed(source, tmp_path):
    (tmp_path / "home/scratch").mkdir(parents=True)
    (tmp_path / "home/scratch/draft").write_text("mine")
    (tmp_path / "out.unfinished").symlink_to(tmp_path / "home")
    with pytest.raises(FileExistsError, match="something else"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["scratch", "draft"]


def test_a_complete_copy_that_was_cut_is_not_called_complete(source, tmp_path):
    purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    (tmp_path / "out/a.png").write_bytes((tmp_path / "out/a.png").read_bytes()[:50])
    with pytest.raises(FileExistsError, match="puregen verify"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")


def test_names_that_the_copy_adds_are_found_before_the_work(source, tmp_path, monkeypatch):
    monkeypatch.setattr(PureGen, "forward", lambda *inputs: pytest.fail("worked"))
    (tmp_path / "in/purified.jsonl").mkdir()
    with pytest.raises(ValueError, match="purified.jsonl"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    (tmp_path / "in/purified.jsonl").rmdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "in/purified.jsonl", "PNG")
    with pytest.raises(ValueError, match="purified.jsonl"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    (tmp_path / "in/purified.jsonl").unlink()
    Image.new("RGB", (16, 16)).save(tmp_path / "in/b.jpg")
    (tmp_path / "in/metadata.jsonl").write_bytes(b'{"file_name": "\xff"}\n')
    with pytest.raises(ValueError, match="UTF-8"):
        purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists()


def test_what_lies_beside_a_single_file_is_not_overwritten(tmp_path):
    from typer.testing import CliRunner

    from puregen_transforms.cli.main import app
    from tests.hostile.test_sources import rows

    rows().to_parquet(tmp_path / "in.parquet")
    (tmp_path / "out.purified.jsonl").write_text("mine")
    done = CliRunner().invoke(
        app, ["purify", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), "--method", "jpeg"]
    )
    assert done.exit_code == 1
    assert (tmp_path / "out.purified.jsonl").read_text() == "mine"

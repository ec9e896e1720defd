from __future__ import annotations

import io
import os
import random
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from puregen_transforms import purify_dataset
from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets.manifest import manifest_of, read_hash, read_records, read_settings
from puregen_transforms.whole_sets.verify import problems_of


@pytest.fixture
def copy(table, purifier, tmp_path):
    purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=25)
    return tmp_path / "out"


@pytest.fixture
def folder(pictures, purifier, tmp_path):
    (tmp_path / "in").mkdir()
    for row in range(4):
        pictures[row].save(tmp_path / f"in/{row}.png")
    (tmp_path / "in/notes.txt").write_text("x")
    purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "images", part_rows=3)
    return tmp_path / "images"


def verify(path):
    return CliRunner().invoke(app, ["verify", str(path)])


def test_whole_copies_pass(copy, folder):
    for path in (copy, folder):
        assert list(problems_of(path)) == []
        assert verify(path).exit_code == 0


def test_every_kind_of_damage_is_found(copy):
    first, second, third = sorted((copy / "data").iterdir())
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    (copy / "data/train-99999-of-00003.parquet").write_bytes(third.read_bytes())
    manifest = copy / "purified.jsonl"
    lines = manifest.read_text().splitlines()
    problems = list(problems_of(copy))
    assert any("train-00000-of-00003.parquet is not what was written" in problem for problem in problems)
    assert any("train-00001-of-00003.parquet is missing" in problem for problem in problems)
    assert any("train-99999-of-00003.parquet does not belong" in problem for problem in problems)
    assert len(problems) == 3
    result = verify(copy)
    assert result.exit_code == 1
    assert "3 problems" in result.stderr
    manifest.write_text("\n".join([lines[0], lines[1], lines[3]]) + "\n")
    assert any("does not end in the hash" in problem for problem in problems_of(copy))
    assert any("rows 25 to 49 of split 'train' are in no part" in problem for problem in problems_of(copy))
    manifest.write_text("\n".join(lines[:3]) + "\n")
    assert any("rows 50 to 59 of split 'train' are in no part" in problem for problem in problems_of(copy))
    manifest.write_text("\n".join([*lines[:3], lines[3][:50]]) + "\n")
    assert "damaged" in verify(copy).stderr


def test_the_source_can_be_looked_at_too(table, pictures, purifier, folder, tmp_path):
    table.to_parquet(tmp_path / "in.parquet")
    purify_dataset(tmp_path / "in.parquet", purifier, output_dir=tmp_path / "tables", part_rows=25)
    for copy, source in (("tables", "in.parquet"), ("images", "in")):
        done = CliRunner().invoke(app, ["verify", str(tmp_path / copy), "--source", str(tmp_path / source)])
        assert done.exit_code == 0, done.output
    pictures[9].save(tmp_path / "in/3.png")
    rows = table.select([*range(30), 0, *range(31, 60)])
    rows.to_parquet(tmp_path / "in.parquet")
    for copy, source, words in (("tables", "in.parquet", "rows 25 to 49"), ("images", "in", "rows 3 to 3")):
        done = CliRunner().invoke(app, ["verify", str(tmp_path / copy), "--source", str(tmp_path / source)])
        assert done.exit_code == 1
        assert words in done.stderr


def test_images_are_decoded(copy, folder):
    """A checksum only says that a file is what was written; here it is made to fit damaged images."""
    from puregen_transforms._files import hash_file

    table = pq.read_table(copy / "data/train-00000-of-00003.parquet")
    cells = table["image"].to_pylist()
    cells[3] = {"bytes": b"no image", "path": None}
    broken = table.set_column(0, table.schema.field("image"), pa.array(cells, type=table.schema.field("image").type))
    rewrite(copy, "data/train-00000-of-00003.parquet", lambda path: pq.write_table(broken, path), hash_file)
    rewrite(folder, "1.png", lambda path: path.write_bytes(b"no image"), hash_file)
    assert ["no image" in problem for problem in problems_of(copy)] == [True]
    assert [problem.startswith("1.png") for problem in problems_of(folder)] == [True]


def rewrite(copy, name, write, hash_file):
    before = hash_file(copy / name)
    write(copy / name)
    manifest = copy / "purified.jsonl"
    changed = {before: hash_file(copy / name)}
    records = [
        replace(record, files={file: changed.get(checksum, checksum) for file, checksum in record.files.items()})
        for record in read_records(manifest)
    ]
    manifest.write_bytes(manifest_of(read_settings(manifest), records))


def test_who_rewrites_copy_and_manifest_is_found_out_by_the_hash_kept_elsewhere(folder):
    from puregen_transforms._files import hash_file

    manifest = folder / "purified.jsonl"
    kept = read_hash(manifest)
    assert CliRunner().invoke(app, ["verify", str(folder), "--sha256", kept]).exit_code == 0
    rewrite(folder, "notes.txt", lambda path: path.write_text("other"), hash_file)
    assert list(problems_of(folder)) == []
    done = CliRunner().invoke(app, ["verify", str(folder), "--sha256", kept])
    assert done.exit_code == 1
    assert kept in done.stderr


def test_every_changed_byte_of_a_manifest_is_noticed(folder):
    manifest = folder / "purified.jsonl"
    content = manifest.read_bytes()
    generator = random.Random(0)
    for place in generator.sample(range(len(content)), 200):
        changed = bytearray(content)
        changed[place] ^= 1 << generator.randrange(8)
        manifest.write_bytes(changed)
        try:
            found = list(problems_of(folder))
        except ValueError:
            continue
        assert found, (place, bytes(changed))


def test_what_was_added_taken_away_or_led_elsewhere_is_found(pictures, purifier, tmp_path):
    (tmp_path / "in/c").mkdir(parents=True)
    pictures[0].save(tmp_path / "in/c/a.png")
    (tmp_path / "in/c/bad.png").write_bytes(b"no image")
    purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out", on_error="skip")
    assert list(problems_of(tmp_path / "out")) == []

    def replaced_by_a_link(copy):
        (copy / "c/a.png").rename(tmp_path / "a.png")
        (copy / "c/a.png").symlink_to(tmp_path / "a.png")

    changes = {
        "skipped.json is not what": lambda copy: (copy / "skipped.json").write_text("[]"),
        "skipped.json is missing": lambda copy: (copy / "skipped.json").unlink(),
        "c/new.png does not belong": lambda copy: (copy / "c/new.png").write_bytes(b"x"),
        "linked does not belong": lambda copy: (copy / "linked").symlink_to(tmp_path),
        "c/x.png does not belong": lambda copy: (copy / "c/x.png").symlink_to("/nowhere"),
        "pipe does not belong": lambda copy: os.mkfifo(copy / "pipe"),
        "c/a.png leads|leads out|c/a.png is no file": replaced_by_a_link,
    }
    for number, (words, change) in enumerate(changes.items()):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "out", copy)
        change(copy)
        problems = " ".join(problems_of(copy))
        assert any(word in problems for word in words.split("|")), (words, problems)


HIDDEN = (".DS_Store", "c/.DS_Store", ".gitattributes", ".cache/huggingface/x.lock", "Thumbs.db", "c/._0.png")


def test_what_file_managers_and_git_leave_is_named_but_is_no_fault(copy, folder):
    for home in (copy, folder):
        for name in (*HIDDEN, ".ipynb_checkpoints/0.png"):
            (home / name).parent.mkdir(exist_ok=True, parents=True)
            (home / name).write_bytes(b"x")
        assert list(problems_of(home)) == []
        done = verify(home)
        assert done.exit_code == 0
        assert f"Note: {len(HIDDEN) + 1} hidden files were added, such as .DS_Store" in done.stdout
    (folder / "0.png").rename(folder / ".0.png")
    (folder / ".link").symlink_to(copy)
    found = [f"{name} does not belong to the copy" for name in (".0.png", ".link")]
    assert sorted(problems_of(folder)) == [*found, "0.png is missing"], "torchvision would take them for images"


@pytest.mark.parametrize("name", ["../other.png", "/dev/zero", "../pipe", "pipe"])
def test_a_manifest_leads_nowhere(folder, name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(folder / "pipe")
    (tmp_path / "other.png").write_bytes((folder / "0.png").read_bytes())
    manifest = folder / "purified.jsonl"
    first, *others = read_records(manifest)
    records = [replace(first, files={**first.files, name: first.files["0.png"]}), *others]
    manifest.write_bytes(manifest_of(read_settings(manifest), records))
    assert list(problems_of(folder))


def test_a_single_file(table, tiny_checkpoint, tmp_path):
    table.to_parquet(tmp_path / "in.parquet")
    options = ["--checkpoint", str(tiny_checkpoint), "--steps", "2", "--device", "cpu", "--part-rows", "25"]
    done = CliRunner().invoke(app, ["purify", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), *options])
    assert done.exit_code == 0, done.output
    assert verify(tmp_path / "out.parquet").exit_code == 0
    content = bytearray((tmp_path / "out.parquet").read_bytes())
    content[100] ^= 1
    (tmp_path / "out.parquet").write_bytes(content)
    assert verify(tmp_path / "out.parquet").exit_code == 1


def test_what_is_no_copy_is_said_to_be_none(tmp_path):
    assert "no" in verify(tmp_path / "nowhere").stderr
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    result = verify(tmp_path)
    assert result.exit_code == 1
    assert "purified.jsonl" in result.stderr

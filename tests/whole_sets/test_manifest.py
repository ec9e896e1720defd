"""The manifest of a copy says what it was made from, and notices a change of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from puregen_transforms import purify_dataset
from puregen_transforms.whole_sets.dataset_copy import PartRecord
from puregen_transforms.whole_sets.manifest import (
    differences,
    filled_in,
    manifest_of,
    manifest_path,
    read_hash,
    read_records,
    read_settings,
)


def test_a_copy_of_before_revisions_were_part_of_a_checkpoint_is_complete(table, purifier, tmp_path):
    purify_dataset(table, purifier, output_dir=tmp_path / "out")
    path = manifest_path(tmp_path / "out")
    settings = read_settings(path)
    settings["purifier"] |= {"revision": None, "ddpm_revision": None}
    path.write_bytes(manifest_of(settings, list(read_records(path))))
    before = path.read_bytes()
    purify_dataset(table, purifier, output_dir=tmp_path / "out")
    assert path.read_bytes() == before


def test_the_manifest_tells_all(table, purifier, tmp_path):
    purify_dataset(table, purifier, output_dir=tmp_path / "out", part_rows=20)
    settings = read_settings(tmp_path / "out/purified.jsonl")
    assert settings["purifier"]["ebm_steps"] == 2
    assert settings["weights"] == purifier.weights
    assert settings["source"]["rows"] == {"train": 60}
    records = list(read_records(tmp_path / "out/purified.jsonl"))
    assert [(record.start, record.stop, record.rows) for record in records] == [
        (0, 20, 20),
        (20, 40, 20),
        (40, 60, 20),
    ]


SETTINGS = {"purifier": {"seed": None, "checkpoint": "a"}, "source": {"images": 2, "rows of a part": 4}}


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "purified.jsonl"
    content = manifest_of(SETTINGS, [PartRecord(name="0", rows=2)])
    path.write_bytes(content)
    assert read_settings(path) == SETTINGS
    assert [record.name for record in read_records(path)] == ["0"]
    assert len(read_hash(path)) == 64
    path.write_bytes(content.replace(b'"images": 2', b'"images": 3'))
    assert read_hash(path) is None


def test_it_is_in_the_folder_or_beside_the_file():
    assert manifest_path(Path("a/out")) == Path("a/out/purified.jsonl")
    assert manifest_path(Path("a/out.parquet")) == Path("a/out.purified.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("text", "is none"),
        ("{}", "is none"),
        ('{"format": 1}', "of format 2, but .* has 1"),
        ('{"format": 2, "source": {}}', "the source and the purifier"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, line, message):
    (tmp_path / "purified.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_settings(tmp_path / "purified.jsonl")


def test_a_damaged_record_is_named_by_its_line(tmp_path):
    (tmp_path / "purified.jsonl").write_bytes(manifest_of(SETTINGS, []) + b'{"name": 3}\n')
    with pytest.raises(ValueError, match="a record in line 3"):
        list(read_records(tmp_path / "purified.jsonl"))


def test_what_was_left_open_is_filled_in_and_all_else_compared():
    earlier = {**SETTINGS, "purifier": {"seed": 7, "energy_threshold": 1.5, "checkpoint": "b", "ddpm_checkpoint": None}}
    now = {
        "purifier": {"seed": None, "energy_threshold": None, "checkpoint": "c", "ddpm_checkpoint": None},
        "source": {"images": 3, "rows of a part": 9},
    }
    filled = filled_in(now, earlier)
    assert filled["purifier"] == earlier["purifier"]
    assert differences(earlier, filled) == ["source, images was 2 and is 3"]
    assert differences(earlier, earlier) == []

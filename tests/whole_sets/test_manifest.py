"""The manifest of a copy says what it was made from, and notices a change of itself."""

from __future__ import annotations

from puregen_transforms import purify_dataset
from puregen_transforms.whole_sets.manifest import manifest_of, manifest_path, read_records, read_settings


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

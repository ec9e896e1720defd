"""A copy of image files."""

from __future__ import annotations

import pytest

from puregen_transforms import purify_dataset


def test_changed_metadata_of_a_folder_are_noticed(pictures, purifier, tmp_path):
    (tmp_path / "in").mkdir()
    pictures[0].save(tmp_path / "in/0.png")
    (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,1\n")
    purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")
    (tmp_path / "in/metadata.csv").write_text("file_name,label\n0.png,2\n")
    with pytest.raises(FileExistsError, match="other files was"):
        purify_dataset(tmp_path / "in", purifier, output_dir=tmp_path / "out")

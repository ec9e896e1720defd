"""What is written is complete or not there, and nothing is written over."""

from __future__ import annotations

import pytest

from puregen_transforms.data.atomic import check_free, complete_or_absent, make_parents, move_to_free


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_at_the_end(tmp_path):
    with complete_or_absent(tmp_path / "new/out.txt", folder=False) as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new/out.txt").exists()
    assert (tmp_path / "new/out.txt").read_text() == "whole"
    assert names(tmp_path / "new") == ["out.txt"]


def test_a_failure_leaves_nothing_the_parents_included(tmp_path):
    with pytest.raises(KeyboardInterrupt), complete_or_absent(tmp_path / "a/b/out", folder=True) as temporary:
        (temporary / "half").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_written_over(tmp_path, folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        check_free(tmp_path / "out", folder=folder)
    with (
        pytest.raises(FileExistsError, match="nothing is overwritten"),
        complete_or_absent(tmp_path / "out", folder=folder),
    ):
        raise AssertionError("begun")
    assert (tmp_path / "out/mine").read_text() == "mine"


def test_an_empty_folder_is_free_for_a_folder_alone(tmp_path):
    (tmp_path / "out").mkdir()
    check_free(tmp_path / "out", folder=True)
    with pytest.raises(FileExistsError):
        check_free(tmp_path / "out", folder=False)


def test_a_link_that_leads_nowhere_is_something_too(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(FileExistsError):
        check_free(tmp_path / "out", folder=False)


def test_what_has_come_meanwhile_stays(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError):
        move_to_free(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_parents_that_were_made_are_named_innermost_first(tmp_path):
    assert make_parents(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert make_parents(tmp_path / "a/b") == []

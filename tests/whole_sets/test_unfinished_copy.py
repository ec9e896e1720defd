"""A copy under way: one run at a time, and nothing of somebody else's is taken up."""

from __future__ import annotations

import subprocess

import pytest

from puregen_transforms import purify_dataset
from puregen_transforms.whole_sets.unfinished_copy import UnfinishedCopy
from tests.whole_sets.test_many_processes import command


def test_another_run_at_the_same_place_is_refused(table, purifier, tmp_path):
    with UnfinishedCopy(tmp_path / "out").locked(), pytest.raises(BlockingIOError, match="another run"):
        purify_dataset(table, purifier, output_dir=tmp_path / "out")
    purify_dataset(table, purifier, output_dir=tmp_path / "out")


def test_a_lock_is_let_go_of(source, purify, tmp_path):
    with UnfinishedCopy(tmp_path / "out").locked():
        refused = purify(source, tmp_path / "out")
        assert refused.exit_code == 1
        assert "another run is at it" in refused.stderr
    assert purify(source, tmp_path / "out").exit_code == 0


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_runs_at_one_destination(source, purify, tiny_checkpoint, tmp_path):
    first, second = (
        subprocess.Popen(
            command(source, tmp_path / "out", tiny_checkpoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    )
    ends = [(run.communicate(timeout=150), run.returncode) for run in (first, second)]
    assert sorted(code for _, code in ends)[0] == 0
    for (output, errors), code in ends:
        if code:
            assert b"another run is at it" in errors
        else:
            assert b"Purified 24 images" in output
    assert len(list((tmp_path / "out").glob("*.png"))) == 24
    assert purify(source, tmp_path / "out", "--steps", 100, "--part-rows", 1024).exit_code == 0, "and it is complete"

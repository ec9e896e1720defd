"""A cleaning that is killed at any moment: started again in the same way, it gives the bytes of one left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from puregen_transforms.whole_sets.verify import problems_of
from tests.cleaning.conftest import content, stamped, write_folder

DIES = """
import os, signal, sys
from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets import copy_folder
from puregen_transforms.detection import whole_search
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import SEARCHES

whole_search.SEARCHES = SEARCHES[:3]
what, left = os.environ["DIES_AT"].split()
left = int(left)

def counted(name, function):
    def dying(*given, **settings):
        global left
        found = function(*given, **settings)
        if name == what:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return found
    return dying

DetectionReport.save = counted("search", DetectionReport.save)
copy_folder._flush = counted("file", copy_folder._flush)
app()
"""


def run(source, destination, dies_at="never 1", *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DIES_AT": dies_at}
    words = ["clean", source, destination, "--budget", "2m", "--device", "cpu", "--part-rows", "32", *options]
    return subprocess.run(
        [sys.executable, "-c", DIES, *map(str, words)], env=environment, capture_output=True, text=True
    )


def finished(folder):
    """When each search was finished."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out.report/.unfinished").rglob("*.safetensors")}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("source") / "images", stamped(5, classes=(0, 1, 3, 5)))


# After a search, in the quarantine, at its end, in the first part, and in the manifest.
MOMENTS = ("search 1", "file 4", "file 20", "file 10", "file 60")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moments", [("file 10",), pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=len)
def test_killed_often_the_bytes_are_the_same(source, tmp_path, moments):
    options = ("--flagged", "quarantine")
    whole = run(source, tmp_path / "whole", "never 1", *options)
    assert whole.returncode == 0, whole.stderr
    for moment in moments:
        killed = run(source, tmp_path / "out", moment, *options)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (tmp_path / "out").exists()
    done = run(source, tmp_path / "out", "never 1", *options)
    assert done.returncode == 0, done.stderr
    for name in ("out", "out.quarantine"):
        assert content(tmp_path / name) == content(tmp_path / name.replace("out", "whole"))
        assert not list(problems_of(tmp_path / name))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out.quarantine", "out.report"]
    assert not (tmp_path / "out.report/.unfinished").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_that_was_finished_is_not_made_again(source, tmp_path):
    killed = run(source, tmp_path / "out", "search 2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = finished(tmp_path)
    assert len(kept) == 2
    killed = run(source, tmp_path / "out", "file 5")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.report/.unfinished").rglob("*.safetensors")
    }
    assert found.items() > kept.items()
    page = (tmp_path / "out.report/report.html").stat().st_mtime_ns
    done = run(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "The search was made already" in done.stderr
    assert (tmp_path / "out.report/report.html").stat().st_mtime_ns == page

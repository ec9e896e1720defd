"""Several processes, killed at any moment: the bytes are those of one process that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets.manifest import read_records
from puregen_transforms.whole_sets.verify import problems_of
from tests.whole_sets.conftest import content


def command(source, destination, checkpoint, *options, processes=1):
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    options = (*map(str, options), "--checkpoint", checkpoint, "--steps", 100, "--device", "cpu", "--dtype", "float32")
    return [sys.executable, *launcher, "-m", "puregen_transforms", "purify", *map(str, (source, destination, *options))]


def run(*arguments, processes=1):
    if processes == 1:  # which needs no process of its own
        words = command(*arguments)
        done = CliRunner().invoke(app, words[words.index("puregen_transforms") + 1 :])
        assert done.exit_code == 0, done.output
        return done
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = command(*arguments, processes=processes)
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from tests.conftest import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def source(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "rows.parquet"
    table.to_parquet(path, batch_size=17)
    return path


@pytest.fixture(scope="module")
def whole(source, checkpoint, tmp_path_factory):
    """By one process, left alone."""
    destination = tmp_path_factory.mktemp("whole") / "out"
    run(source, destination, checkpoint, "--part-rows", 4)
    return content(destination)


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_does_not_matter(source, checkpoint, whole, tmp_path, processes):
    done = run(source, tmp_path / "out", checkpoint, "--part-rows", 4, processes=processes)
    assert content(tmp_path / "out") == whole
    assert done.stdout.count("Purified 60 images") == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("moments", [[3], pytest.param([0, 3, 6, 9, 12], marks=pytest.mark.slow)], ids=str)
def test_killed_at_any_moment_nothing_is_lost(source, checkpoint, whole, tmp_path, moments):
    """Two processes, killed a random moment after so many parts are finished; one finishes what they began."""
    destination, random_moments = tmp_path / "out", random.Random(0)
    finished, written = [], {}
    for moment in moments:
        process = start(source, destination, checkpoint)
        parts = tmp_path / "out.unfinished/parts"
        while process.poll() is None and len(list(parts.glob("*.json"))) < moment:
            time.sleep(0.01)
        time.sleep(random_moments.random() / 10)
        if process.poll() is not None:
            break
        kill(process)
        names = [path.stem for path in parts.glob("*.json")]
        finished.append(len(names))
        data = tmp_path / "out.unfinished/result/data"
        written = {name: (data / f"{name}.parquet").stat().st_mtime_ns for name in names} | written
        assert not destination.exists()
        for path in (tmp_path / "out.unfinished/result").rglob("*.parquet"):
            load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))
    assert finished == sorted(finished)
    assert len(finished) >= min(3, len(moments))
    run(source, destination, checkpoint, "--part-rows", 4)
    assert content(destination) == whole
    again = [
        name for name, when in written.items() if (destination / f"data/{name}.parquet").stat().st_mtime_ns != when
    ]
    assert written and not again, "finished parts are not done again"
    assert not list(problems_of(destination))
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["out"]


DIES_AT_THE_MANIFEST = """
import os, signal
from puregen_transforms.cli.main import app
from puregen_transforms.whole_sets import copy_folder
flush = copy_folder._flush
def dying(path):
    if path.is_file() and path.read_bytes().startswith(b'{"format"'):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)
copy_folder._flush = dying
app()
"""


@pytest.mark.slow
def test_killed_while_the_manifest_is_written(source, checkpoint, whole, tmp_path):
    arguments = command(source, tmp_path / "out", checkpoint, "--part-rows", 4)
    dying = [sys.executable, "-c", DIES_AT_THE_MANIFEST, *arguments[arguments.index("puregen_transforms") + 1 :]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(dying, capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list((tmp_path / "out.unfinished/scratch").iterdir())) == 1, "it was being written"
    run(source, tmp_path / "out", checkpoint, "--part-rows", 4)
    assert content(tmp_path / "out") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def kill(process):
    """SIGKILL for the launcher and its workers, which would live on."""
    members = psutil.Process(process.pid).children(recursive=True)
    for member in (*members, psutil.Process(process.pid)):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(members, timeout=30)


def start(source, destination, checkpoint):
    return subprocess.Popen(
        command(source, destination, checkpoint, "--part-rows", 4, processes=2),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_every_row_is_in_one_part(whole, tmp_path):
    (tmp_path / "purified.jsonl").write_bytes(whole["purified.jsonl"])
    rows = [row for record in read_records(tmp_path / "purified.jsonl") for row in range(record.start, record.stop)]
    assert rows == list(range(60))

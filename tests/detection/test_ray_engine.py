"""`search_with_ray`, on a real Ray of this machine: the verdict is that of one process, bit for bit."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.detection import SuspectSet, ray_engine, search_set
from tests.detection.pictures import pictures, stamped

# Under `uv run` Ray would have every worker make an environment of its own first.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

pytest.importorskip("ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COUNT = 240


@pytest.fixture(scope="module")
def ray():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2 * 10**8, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, of which every fifteenth has a stamp and the label "1"."""
    images, labels = pictures(COUNT)
    labels[::15] = 1
    top = tmp_path_factory.mktemp("source")
    for row, image in enumerate(stamped(images, torch.arange(0, COUNT, 15))):
        path = top / f"{labels[row]}/{row:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(path)
    return top


@pytest.fixture
def in_small_tasks(monkeypatch):
    monkeypatch.setattr(ray_engine, "AT_ONCE", 50)


def given(folder, state):
    """The images, read from their files when they are asked for."""
    paths = sorted(folder.rglob("*.png"))
    labels = torch.tensor([int(path.parent.name) for path in paths])
    return SuspectSet(images=Files(paths), labels=labels, class_names=tuple("0123"), state=state)


class Files:
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        return Image.open(self.paths[row])


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """What one process finds."""
    return search_set(given(folder, tmp_path_factory.mktemp("alone")), budget="2m")


def check_same(found, expected):
    assert [one.search.name for one in found.made] == [one.search.name for one in expected.made]
    assert found.headline == expected.headline
    for one, other in zip(found.made, expected.made, strict=True):
        assert torch.equal(one.report.scores, other.report.scores), one.search.name
        assert torch.equal(one.report.flagged, other.report.flagged)
        assert one.report.details.keys() == other.report.details.keys()
        assert all(torch.equal(one.report.details[name], values) for name, values in other.report.details.items())
    for name in ("scores", "flagged", "doubtful", "mislabeled", "found_by"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_the_verdict_is_that_of_one_process_and_one_killed_actor_changes_nothing(
    ray, folder, alone, in_small_tasks, tmp_path
):
    killed, done = [], threading.Event()

    def kill_one():
        while not killed and not done.is_set():
            for one in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended between the two looks; a zombie is one of these
                    if not killed and "Searcher.do" in " ".join(one.cmdline()):  # Ray's name for an actor at work
                        one.send_signal(signal.SIGKILL)
                        killed.append(one.pid)
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    told = []
    suspects = given(folder, tmp_path / "state")
    suspects = replace(suspects, progress=lambda *step: told.append(step))
    try:
        found = ray_engine.search_with_ray(suspects, budget="2m", actors=2)
    finally:
        done.set()
        killer.join()
    assert killed
    assert alone.flagged.nonzero().numel() == COUNT // 15
    check_same(found, alone)
    tasks = [step for step in told if step[0] == "searching with Ray"]
    assert tasks[-1][1] == tasks[-1][2] >= 10
    assert not [step for step in told if step[0] in ("measuring energies", "looking for patches")], "done by actors"


def test_what_actors_cannot_do_is_explained_as_by_one_process(ray, tmp_path):
    images, labels = pictures(40)
    mixed = [*images[:-1], images[-1, :, :16]]
    given = {"images": mixed, "labels": labels}
    expected = search_set(SuspectSet(**given, state=tmp_path / "alone"), budget="2m")
    found = ray_engine.search_with_ray(SuspectSet(**given, state=tmp_path / "state"), budget="2m", actors=1)
    assert [(one.search.name, one.why) for one in found.left_out] == [
        (one.search.name, one.why) for one in expected.left_out
    ]
    assert any("of one size" in one.why for one in found.left_out)
    check_same(found, expected)


def test_a_folder_for_what_is_finished_is_needed():
    images, _ = pictures(20)
    with pytest.raises(ValueError, match="folder `state`"):
        ray_engine.search_with_ray(SuspectSet(images=images))


def run(*words):
    done = CliRunner().invoke(app, [*map(str, words), "--budget", "2m", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    return done


def without_seconds(path):
    return [line for line in path.read_text().splitlines() if '"seconds"' not in line]


def test_commands_write_the_same_bytes(ray, folder, tmp_path):
    run("detect", folder, "--output", tmp_path / "alone")
    run("detect", folder, "--output", tmp_path / "ray", "--engine", "ray", "--actors", "2")
    for name in ("report.html", "images.csv", "images.parquet"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert without_seconds(tmp_path / "ray/verdict.json") == without_seconds(tmp_path / "alone/verdict.json")
    assert not (tmp_path / "ray/state").exists()
    run("clean", folder, tmp_path / "clean")
    run("clean", folder, tmp_path / "clean-ray", "--engine", "ray")
    names = {path.relative_to(tmp_path / "clean") for path in (tmp_path / "clean").rglob("*") if path.is_file()}
    assert len(names) > COUNT * 14 // 15
    for name in names:
        assert (tmp_path / "clean-ray" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes(), name

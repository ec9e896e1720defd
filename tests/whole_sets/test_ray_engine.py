"""`purify_with_ray`, on a real Ray of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, Value, load_dataset

from puregen_transforms import PureGen, purify_dataset
from puregen_transforms.whole_sets.manifest import manifest_path, read_records
from puregen_transforms.whole_sets.verify import problems_of
from tests.whole_sets.conftest import pixels
from tests.whole_sets.test_many_processes import kill

# Under `uv run` Ray would have every worker make an environment of its own first.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

pytest.importorskip("ray")

pytestmark = pytest.mark.timeout(600)

TWO_COLUMNS = Features(
    {"image": Image(), "label": ClassLabel(names=["cat", "dog"]), "row": Value("int64"), "b": Image()}
)


@pytest.fixture(scope="module")
def ray():
    import ray

    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2 * 10**8, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def source(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    for part in range(6):
        table.select(range(10 * part, 10 * part + 10)).to_parquet(folder / f"{part}.parquet")
    return folder


def test_images_are_those_of_purify_dataset(ray, source, table, purifier, tmp_path):
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray

    outcome = purify_with_ray(source, tmp_path / "ray", purifier, id_column="row", rows_per_call=7, actors=2)
    assert outcome.images == 60
    clean = load_dataset(str(tmp_path / "ray"), split="train").sort("row")
    assert clean.features == table.features
    assert clean["row"][:] == list(range(60))
    assert clean["label"][:] == table["label"][:]
    alone = purify_dataset(table, purifier, output_dir=tmp_path / "alone")
    assert np.array_equal(pixels(clean["image"][:]), pixels(alone["image"][:]))
    assert not list(problems_of(tmp_path / "ray"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "ray"]


@pytest.mark.slow
def test_ids_are_made_where_there_are_none(ray, source, purifier, tmp_path):
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray

    purify_with_ray(source, tmp_path / "out", purifier, actors=1)
    clean = load_dataset(str(tmp_path / "out"), split="train")
    assert len(set(clean["row_hash"])) == 60
    again = purify_with_ray(source, tmp_path / "out", purifier, actors=1)
    assert again.images == 60


@pytest.mark.slow
def test_images_of_several_columns_are_counted_as_by_purify_dataset(ray, table, pictures, tiny_checkpoint, tmp_path):
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray

    twice = table.select(range(20)).add_column("b", [None, *range(19)])
    twice = twice.map(lambda row: {"b": None if row["b"] is None else pictures[row["b"]]}, features=TWO_COLUMNS)
    (tmp_path / "source").mkdir()
    twice.to_parquet(tmp_path / "source/0.parquet")
    options = {"checkpoint": tiny_checkpoint, "ebm_steps": 2, "seed": 0, "device": "cpu", "dtype": "float32"}
    purifier = PureGen(**options, columns=["image", "b"])
    for _ in range(2):  # the second time it is complete already
        outcome = purify_with_ray(tmp_path / "source", tmp_path / "ray", purifier, id_column="row", actors=1)
        assert outcome.images == 39
    purify_dataset(twice, purifier, output_dir=tmp_path / "alone")
    for name in ("ray", "alone"):
        assert sum(record.images for record in read_records(manifest_path(tmp_path / name))) == 39


@pytest.mark.slow
def test_other_data_are_refused(ray, source, table, purifier, tmp_path):
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray
    from puregen_transforms.whole_sets.verify import changes_since

    purify_with_ray(source, tmp_path / "out", purifier, id_column="row", actors=1)
    backwards = table.select(range(59, -1, -1)).remove_columns("row").add_column("row", list(range(60)))
    (tmp_path / "other").mkdir()
    for part in range(6):
        backwards.select(range(10 * part, 10 * part + 10)).to_parquet(tmp_path / f"other/{part}.parquet")
    with pytest.raises(FileExistsError, match="source, files was"):
        purify_with_ray(tmp_path / "other", tmp_path / "out", purifier, id_column="row", actors=1)
    with pytest.raises(ValueError, match="Ray has written"):
        list(changes_since(tmp_path / "out", str(source)))


@pytest.mark.slow
def test_wrong_settings_are_explained(ray, source, purifier, tmp_path):
    from puregen_transforms.whole_sets.ray_engine import purify_with_ray

    with pytest.raises(ValueError, match="id column out of"):
        purify_with_ray(source, tmp_path / "out", purifier, id_column="nothing")
    with pytest.raises(ValueError, match="first pass"):
        purify_with_ray(source, tmp_path / "out", PureGen("adaptive"))
    with pytest.raises(ValueError, match="as Parquet first"):
        purify_with_ray(tmp_path, tmp_path.parent / "out", purifier)


RUN = """
import sys, ray
from puregen_transforms import PureGen
from puregen_transforms.whole_sets.ray_engine import purify_with_ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=2 * 10**8, log_to_driver=False)
purifier = PureGen(checkpoint=sys.argv[3], ebm_steps=int(sys.argv[4]), seed=0, device="cpu", dtype="float32")
purify_with_ray(sys.argv[1], sys.argv[2], purifier, id_column="row", rows_per_call=5, part_rows=10, actors=1)
"""


@pytest.mark.slow
def test_a_killed_driver_loses_nothing(source, table, tiny_checkpoint, tmp_path):
    steps = 150
    arguments = [sys.executable, "-c", RUN, str(source), str(tmp_path / "out"), str(tiny_checkpoint), str(steps)]
    driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    data, deadline = tmp_path / "out.unfinished/result/data", time.monotonic() + 240
    while len(list(data.glob("*.parquet"))) < 3:
        assert driver.poll() is None, driver.stderr.read().decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill(driver)
    driver.stderr.close()
    before = {path.name for path in data.glob("*.parquet")}
    assert not (tmp_path / "out").exists()
    subprocess.run(arguments, check=True, capture_output=True, timeout=200)
    after = {path.name for path in (tmp_path / "out/data").glob("*.parquet")}
    assert len(before & after) >= 1, "finished files are kept"
    clean = load_dataset(str(tmp_path / "out"), split="train").sort("row")
    assert clean["row"][:] == list(range(60))
    purifier = PureGen(checkpoint=tiny_checkpoint, ebm_steps=steps, seed=0, device="cpu", dtype="float32")
    assert np.array_equal(pixels(clean["image"][:]), pixels(purifier(table["image"][:])))

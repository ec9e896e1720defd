import csv
import html
import io
import json
import shlex
import shutil

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from typer.testing import CliRunner

from puregen_transforms import PureGen
from puregen_transforms.cli.main import app
from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo

COUNT = 60


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing them takes longer than all the rest."""
    monkeypatch.setattr("puregen_transforms.inspection.energy_section.has_extra", lambda module: False)


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", "--sample", "2", "--budget", "2m", *map(str, arguments)])


def pictures(demo, poisoned=()):
    images = demo.images[:COUNT].clone()
    rows = list(poisoned)
    if rows:
        images[rows] = add_trigger(images[rows], demo.trigger)
    return [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def rows_of(demo, name):
    return [row for row in range(COUNT) if CLASSES[int(demo.labels[row])] == name]


def parquet(demo, path, images, **columns):
    features = {"image": Image(), **{name: feature for name, (feature, _) in columns.items()}}
    values = {"image": images, **{name: value for name, (_, value) in columns.items()}}
    Dataset.from_dict(values, features=Features(features)).to_parquet(path)
    return path


def labels(demo):
    return ClassLabel(names=list(CLASSES)), demo.labels[:COUNT].tolist()


def report(folder):
    return json.loads((folder / "verdict.json").read_text(encoding="utf-8"))


def test_a_folder_of_images_with_poison(demo, tmp_path):
    source = tmp_path / "set"
    rows = rows_of(demo, "ship")
    for row, picture in enumerate(pictures(demo, rows)):
        folder = source / CLASSES[int(demo.labels[row])]
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{row}.png")
    before = {path: path.read_bytes() for path in source.rglob("*.png")}
    result = run(source, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"Poisoned: {len(rows)} of {COUNT} images" in result.output
    assert "the suspicious class is ship" in result.output
    assert f"Leave out the {len(rows)} images" in result.output
    assert report(tmp_path / "out")["energies"]["classes"][0]["name"] == "ship"
    lines = csv.DictReader((tmp_path / "out/images.csv").open(encoding="utf-8"))
    assert {line["name"] for line in lines if line["verdict"] == "poison"} == {f"ship/{row}.png" for row in rows}
    assert (tmp_path / "out/report.html").stat().st_size > 20_000
    assert {path: path.read_bytes() for path in source.rglob("*.png")} == before


def test_a_parquet_file_with_labels(demo, tmp_path, tiny_checkpoint, no_figures):
    source = parquet(demo, tmp_path / "set.parquet", pictures(demo), label=labels(demo))
    result = run(source, "--checkpoint", tiny_checkpoint, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = report(tmp_path / "out")
    assert {group["name"] for group in record["energies"]["classes"]} == set(CLASSES)
    assert record["source"]["columns"] == "image, label"
    assert record["source"]["command"].startswith(f"puregen inspect {source} --checkpoint {tiny_checkpoint}")


def test_clean_images_without_labels(demo, tmp_path, tiny_checkpoint, no_figures):
    source = parquet(demo, tmp_path / "set.parquet", pictures(demo))
    result = run(source, "--checkpoint", tiny_checkpoint, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"No hidden pattern and no unusual energies were found in {COUNT} images." in result.output
    assert report(tmp_path / "out")["energies"]["classes"] == []


def test_the_command_of_the_advice_can_be_pasted(demo, tmp_path, tiny_checkpoint, no_figures):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "my checkpoint")
    features = Features({"picture": Image(), "mask": Image()})
    inputs = pictures(demo)
    inputs[1] = inputs[1].quantize(64)
    rows = Dataset.from_dict({"picture": inputs, "mask": pictures(demo)}, features=features)
    DatasetDict({"train": rows, "test": rows.select([0, 1])}).save_to_disk(tmp_path / "our pets")
    options = ["--column", "picture", "--checkpoint", checkpoint, "--seed", 3, "--device", "cpu", "--convert"]
    result = run(tmp_path / "our pets", *options, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    command = next(line for line in result.output.splitlines() if line.startswith("To purify: ")).partition(": ")[2]
    assert f"'{tmp_path}/our pets' '{tmp_path}/our pets-purified'" in command
    assert report(tmp_path / "out")["energies"]["advice"]["command"] == command
    assert command in html.unescape((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    call = report(tmp_path / "out")["energies"]["advice"]["call"]
    assert call == f"PureGen(checkpoint={str(checkpoint)!r}, seed=3, columns='picture')"
    pasted = CliRunner().invoke(app, shlex.split(command)[1:])
    assert pasted.exit_code == 0, pasted.output
    clean = load_dataset(str(tmp_path / "our pets-purified"))
    assert set(clean) == {"train"}, "the split that was inspected"
    expected = PureGen(checkpoint=checkpoint, seed=3)(rows[0]["picture"])
    assert clean["train"][0]["picture"].tobytes() == expected.tobytes()
    assert clean["train"][0]["mask"].tobytes() == rows[0]["mask"].tobytes()


def test_the_advice_of_a_plain_source_names_nothing_more(demo, tmp_path, monkeypatch, no_figures, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    parquet(demo, tmp_path / "set.parquet", pictures(demo))
    (tmp_path / "set-purified.parquet").touch()
    result = run("set.parquet", "--checkpoint", tiny_checkpoint)
    command = f"puregen purify set.parquet set-purified-2.parquet --checkpoint {tiny_checkpoint}"
    assert f"To purify: {command}\n" in result.output


def test_class_names_as_text_and_a_checkpoint(demo, tmp_path, tiny_checkpoint, no_figures):
    names = [None if row == 0 else CLASSES[int(demo.labels[row])] for row in range(COUNT)]
    columns = {"kind": (Value("string"), names), "weight": (Value("float64"), [0.5] * COUNT)}
    source = parquet(demo, tmp_path / "set.parquet", pictures(demo), **columns)
    options = ["--label-column", "kind", "--checkpoint", tiny_checkpoint, "--output", tmp_path / "out"]
    result = run(source, *options)
    assert result.exit_code == 0, result.output
    record = report(tmp_path / "out")["energies"]
    assert {group["name"] for group in record["classes"]} == set(CLASSES)
    assert sum(group["images"] for group in record["classes"]) == COUNT - 1
    assert record["settings"]["checkpoint"] == str(tiny_checkpoint)
    result = run(source, "--label-column", "weight", "--output", tmp_path / "other")
    assert result.exit_code == 1
    assert "kind" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "--split"),
        (["--column", "label"], "--column"),
        (["--label-column", "nothing"], "nothing"),
        (["--checkpoint", "no-such-checkpoint"], "no-such-checkpoint"),
    ],
)
def test_options_that_do_not_fit(demo, tmp_path, options, message):
    source = parquet(demo, tmp_path / "set.parquet", pictures(demo), label=labels(demo))
    result = run(source, *options, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_named(demo, tmp_path):
    buffer = io.BytesIO()
    pictures(demo)[0].save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue(), "path": None}] * 20
    cells[7] = {"bytes": buffer.getvalue()[:60], "path": None}
    features = Features({"image": Image()})
    table = (
        pa.table({"image": cells})
        .cast(features.arrow_schema)
        .replace_schema_metadata(Dataset.from_dict({"image": []}, features=features).data.schema.metadata)
    )
    pq.write_table(table, tmp_path / "set.parquet")
    result = run(tmp_path / "set.parquet", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "row 7" in result.output
    assert "Traceback" not in result.output


def test_images_of_several_sizes_are_compared_after_resizing(demo, tmp_path, tiny_checkpoint, no_figures):
    images = [picture.resize((32 + row % 3, 40)) for row, picture in enumerate(pictures(demo))]
    source = parquet(demo, tmp_path / "set.parquet", images, label=labels(demo))
    options = ("--checkpoint", tiny_checkpoint, "--output", tmp_path / "out")
    assert run(source, *options).exit_code == 0
    assert len(report(tmp_path / "out")["left_out"]) > 3, "searches that cannot compare them are said to be left out"
    assert run(source, *options, "--size", "32").exit_code == 0
    record = report(tmp_path / "out")
    assert record["energies"]["size"] == [32, 32]
    assert record["source"]["resized to"] == "32x32 pixels"
    assert {one["search"] for one in record["made"]} >= {"stamps", "stripes", "residual_patterns", "shared_patterns"}


def test_nothing_there(tmp_path):
    result = run(tmp_path / "nowhere", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "nowhere" in result.output


def test_a_file_in_the_way(demo, tmp_path):
    source = parquet(demo, tmp_path / "set.parquet", pictures(demo))
    (tmp_path / "out").write_text("in the way")
    result = run(source, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.slow
def test_pipelines_see_a_suspicion_in_the_exit_code(demo, tmp_path, no_figures):
    rows = rows_of(demo, "dog")
    columns = {"label": (ClassLabel(names=list(CLASSES)), demo.labels[:COUNT].tolist())}
    clean = parquet(demo, tmp_path / "clean.parquet", pictures(demo), **columns)
    poisoned = parquet(demo, tmp_path / "poisoned.parquet", pictures(demo, rows), **columns)
    out = ("--output", tmp_path / "out")
    assert run(poisoned, *out).exit_code == 0
    assert run(poisoned, *out, "--fail-on-flagged").exit_code == 2
    assert run(clean, *out, "--fail-on-flagged").exit_code == 0

"""The split, the images and the classes of a source that are to be searched."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from puregen_transforms.data.cells import ANYWHERE
from puregen_transforms.data.labelled_source import choose_columns, choose_source
from tests.cli.files import encoded, picture, put

CELLS = [{"bytes": encoded(picture(row)), "path": f"{row}.png"} for row in range(4)]


def rows(**columns):
    kinds = {"image": Image(), **{name: kind for name, (kind, _) in columns.items()}}
    cells = {"image": CELLS, **{name: values for name, (_, values) in columns.items()}}
    return {"train": Dataset.from_dict(cells, features=Features(kinds))}


def chosen(splits, label_column=None, **options):
    return choose_columns(splits, "train", None, label_column, places=ANYWHERE, **options)


NAMES = ClassLabel(names=["cat", "dog"])


def test_labels_are_those_marked_as_such():
    found = chosen(rows(other=(Value("int64"), [5, 6, 7, 8]), kind=(NAMES, [0, 1, -1, None])))
    assert found.labels == [0, 1, -1, -1]
    assert found.class_names == ("cat", "dog")
    assert found.facts == {"split": "train", "columns": "image, kind"}


def test_or_those_of_a_usual_name():
    assert chosen(rows(label=(Value("string"), ["b", "a", "b", None]))).labels == [1, 0, 1, -1]
    assert chosen(rows(other=(Value("int64"), [0, 1, 0, 1]))).labels is None


def test_or_those_that_were_named():
    found = chosen(rows(kind=(NAMES, [0, 1, 0, 1]), other=(Value("int64"), [3, 0, 1, 2])), "other")
    assert found.labels == [3, 0, 1, 2]
    for name in ("size", "gone"):
        with pytest.raises(ValueError, match="Expected a column of classes"):
            chosen(rows(size=(Value("float64"), [0.5] * 4)), name)


def test_images_are_resized_on_demand_and_the_report_says_so():
    found = chosen(rows(), size=8)
    assert {image.size for image in found.images} == {(8, 8)}
    assert found.facts["resized to"] == "8x8 pixels"


def test_names_are_paths_in_the_folder(tmp_path):
    for row, cell in enumerate(CELLS):
        put(tmp_path / f"{'cat' if row % 2 else 'dog'}/{row}.png", cell["bytes"])
    found = choose_source(str(tmp_path), None, None, None)
    assert [found.name_of(row) for row in range(4)] == ["cat/1.png", "cat/3.png", "dog/0.png", "dog/2.png"]
    assert found.opened["source"] == str(tmp_path)
    assert chosen(rows()).name_of(2) == "2.png"


def test_a_split_that_is_not_there_is_refused(tmp_path):
    DatasetDict(train=rows()["train"], extra=rows()["train"]).save_to_disk(tmp_path / "saved")
    assert choose_source(str(tmp_path / "saved"), None, None, None).split == "train"
    with pytest.raises(ValueError, match="Expected one of the splits"):
        choose_source(str(tmp_path / "saved"), "test", None, None)


def test_the_bars_of_datasets_are_hidden_for_a_while_only(tmp_path, capsys):
    from datasets.utils import are_progress_bars_disabled

    put(tmp_path / "set/cat/0.png", encoded(picture(0)))
    put(tmp_path / "set/dog/1.png", encoded(picture(1)))
    choose_source(str(tmp_path / "set"), None, None, None)
    assert not are_progress_bars_disabled()
    assert capsys.readouterr().err == ""

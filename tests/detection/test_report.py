"""The report of a detector: a file that executes nothing, and a way to part the set."""

import csv

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file

from puregen_transforms.data.image_set import ImageSet
from puregen_transforms.detection import DetectionReport
from puregen_transforms.detection.report import ClassCounts, count_by_class


@pytest.fixture
def report():
    return DetectionReport(
        scores=torch.tensor([0.5, 3.0, float("nan"), 2.0, -1.0]),
        flagged=torch.tensor([False, True, False, True, False]),
        detector="some",
        classes=(ClassCounts(name="cat", label=0, images=3, flagged=2, facts={"p": 0.01, "q": None}),),
        details={"pattern": torch.tensor([0, 1, 0, 2, 0])},
        settings={"share": 0.2, "checkpoint": None},
        seconds=1.5,
    )


def test_saved_and_loaded_it_is_the_same(report, tmp_path):
    report.save(tmp_path / "r.safetensors")
    found = DetectionReport.load(tmp_path / "r.safetensors")
    assert torch.equal(found.scores, report.scores) or found.scores.isnan().equal(report.scores.isnan())
    assert torch.equal(found.flagged, report.flagged)
    assert torch.equal(found.details["pattern"], report.details["pattern"])
    for name in ("detector", "classes", "settings", "seconds"):
        assert getattr(found, name) == getattr(report, name)


def test_the_same_report_is_the_same_bytes(report, tmp_path):
    paths = [tmp_path / f"{number}.safetensors" for number in range(16)]
    for path in paths:
        report.save(path)
    assert len({path.read_bytes() for path in paths}) == 1


def test_rows_come_with_the_most_suspicious_first(report):
    assert report.rows == [1, 3]
    assert str(report) == "some: 2 of 5 images flagged"


@pytest.mark.parametrize(
    "dataset",
    [
        list("abcde"),
        tuple("abcde"),
        torch.arange(5),
        np.arange(5),
        Dataset.from_dict({"row": range(5)}),
        ImageSet(torch.arange(5).byte().view(5, 1, 1, 1).expand(5, 3, 2, 2), torch.zeros(5).long(), ("a",)),
        torch.utils.data.TensorDataset(torch.arange(5)),
    ],
    ids=lambda dataset: type(dataset).__name__,
)
def test_split_gives_two_sets_of_the_same_kind(report, dataset):
    kept, removed = report.split(dataset)
    assert (len(kept), len(removed)) == (3, 2)

    def row(sample):
        if isinstance(sample, str):
            return "abcde".index(sample)
        if isinstance(sample, dict):
            return sample["row"]
        return int(torch.as_tensor(sample[0] if isinstance(sample, tuple) else sample).flatten()[0])

    samples = [list(part.images if isinstance(part, ImageSet) else part) for part in (kept, removed)]
    assert [[row(sample) for sample in part] for part in samples] == [[0, 2, 4], [1, 3]]
    with pytest.raises(ValueError, match="Expected the 5 rows that were searched, but got 4"):
        report.split(list("abcd"))


def test_csv_has_a_line_for_each_image(report, tmp_path):
    report.to_csv(tmp_path / "r.csv", names=["a", "b,c", "d", "e", "f"])
    lines = list(csv.reader((tmp_path / "r.csv").open()))
    assert lines[0] == ["row", "score", "flagged", "name"]
    assert lines[2] == ["1", "3", "1", "b,c"]
    assert lines[3] == ["2", "nan", "0", "d"]


@pytest.mark.parametrize("damage", ["no file", "text", "another", "list", "format", "missing", "lengths"])
def test_what_is_no_report_is_refused(report, tmp_path, damage):
    path = tmp_path / "r.safetensors"
    if damage == "text":
        path.write_text("hello")
    elif damage == "another":
        save_file({"scores": torch.zeros(2)}, path)
    elif damage == "list":
        save_file({"scores": torch.zeros(2)}, path, metadata={"report": "[1, 2]"})
    elif damage == "format":
        save_file({"scores": torch.zeros(2), "flagged": torch.zeros(2) > 0}, path, metadata={"report": "{}"})
    elif damage in ("missing", "lengths"):
        report.save(path)
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        tensors = {"scores": torch.zeros(2)} | ({"flagged": torch.zeros(3) > 0} if damage == "lengths" else {})
        save_file(tensors, path, metadata=about)
    error = FileNotFoundError if damage == "no file" else ValueError
    with pytest.raises(error, match="Expected a detection report"):
        DetectionReport.load(path)


def test_counts_name_the_class_with_the_largest_share_first():
    flagged, labels = torch.tensor([True, False, True, True, False]), torch.tensor([0, 0, 2, 2, -1])
    counts = count_by_class(flagged, labels, ("cat", "dog"), {2: {"p": 0.5}})
    assert [(one.name, one.images, one.flagged) for one in counts] == [("2", 2, 2), ("cat", 2, 1)]
    assert counts[0].facts == {"p": 0.5}
    assert count_by_class(flagged, None, ()) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"scores": torch.zeros(2).long()},
        {"scores": torch.zeros(2, 2)},
        {"flagged": torch.zeros(3) > 0},
        {"flagged": torch.zeros(2)},
        {"details": {"pattern": torch.zeros(3)}},
    ],
)
def test_tensors_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected"):
        DetectionReport(**{"scores": torch.zeros(2), "flagged": torch.zeros(2) > 0, **wrong})

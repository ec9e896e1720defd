import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.detection.verdict import Searched, conclude
from puregen_transforms.inspection.exports import add_to_datalab, fiftyone_samples
from puregen_transforms.inspection.image_scores import ImageScores

COUNT = 40


@pytest.fixture
def scores():
    values = torch.linspace(0, 1, COUNT)
    report = DetectionReport(scores=values, flagged=values > 0.9)
    verdict = conclude([Searched(search=SEARCHES[0], report=report)], [], COUNT)
    names = [f"cat/{row}.png" for row in range(COUNT)]
    return ImageScores.of(verdict, names=names, classes=["cat"] * COUNT)


def test_cleanlab_has_poison_among_its_issues(scores):
    cleanlab = pytest.importorskip("cleanlab")
    lab = cleanlab.Datalab(Dataset.from_dict({"label": [0, 1] * (COUNT // 2)}), label_name="label", verbosity=0)
    add_to_datalab(scores, lab)
    issues = lab.get_issues("poison")
    assert issues["is_poison_issue"].tolist() == scores.is_poison_suspect.tolist()
    assert issues["is_poison_issue"].sum() == 4
    goodness = issues["poison_score"].to_numpy()
    assert ((goodness < 0.5) == scores.is_poison_suspect.numpy()).all()
    assert (np.diff(goodness) <= 0).all(), "the more suspicious, the lower"
    assert {"is_poison_issue", "poison_score"} <= set(lab.get_issues().columns)
    assert lab.get_issue_summary("poison")["num_issues"].tolist() == [4]
    short = cleanlab.Datalab(Dataset.from_dict({"label": [0, 1]}), label_name="label", verbosity=0)
    with pytest.raises(ValueError, match="the 40 rows"):
        add_to_datalab(scores, short)


def test_fiftyone_has_scores_and_tags(scores, tmp_path):
    pytest.importorskip("fiftyone")
    with pytest.raises(ValueError, match="there is no 'cat/0.png'"):
        fiftyone_samples(scores, tmp_path)
    (tmp_path / "cat").mkdir()
    for row in range(COUNT):
        Image.new("RGB", (8, 8)).save(tmp_path / f"cat/{row}.png")
    first, *_, last = fiftyone_samples(scores, tmp_path)
    assert (first.tags, last.tags) == ([], ["poison", "stamps"])
    assert (first.is_poison_suspect, last.is_poison_suspect) == (False, True)
    assert last.filepath == str(tmp_path / "cat/39.png")
    assert last.poison_score == scores.poison_scores[-1].item()
    assert last.stamps_score == 1
    assert last.ground_truth.label == "cat"


@pytest.mark.parametrize(("module", "call"), [("fiftyone", fiftyone_samples), ("cleanlab", add_to_datalab)])
def test_what_is_not_installed_is_named(module, call, scores, monkeypatch):
    monkeypatch.setattr("puregen_transforms.inspection.exports.has_extra", lambda module: False)
    with pytest.raises(ImportError, match=f"pip install {module}"):
        call(scores, None)

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset

from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.detection.verdict import Searched, conclude
from puregen_transforms.inspection.image_scores import ImageScores

EVIL = '=1+1,"<b>\n'


def searched(name, scores, flagged):
    search = next(search for search in SEARCHES if search.name == name)
    report = DetectionReport(scores=torch.tensor(scores), flagged=torch.tensor(flagged).bool())
    return Searched(search=search, report=report)


@pytest.fixture
def verdict():
    made = [
        searched("stamps", [30.0, 0.0, 0.0, 0.25], [1, 0, 0, 0]),
        searched("unusual_energies", [0.1, 7.0, float("nan"), 0.3], [0, 1, 0, 0]),
        searched("label_disagreement", [0.0, 0.0, 0.0, 0.9], [0, 0, 0, 1]),
    ]
    return conclude(made, [], 4)


@pytest.fixture
def scores(verdict):
    return ImageScores.of(verdict, names=["a.png", EVIL, None, "d.png"], classes=["cat", "dog", "", "dog"])


def test_every_image_has_a_line_with_what_each_search_says(scores, verdict):
    lines = scores.table.to_pylist()
    assert [line["verdict"] for line in lines] == ["poison", "doubtful", "", "mislabeled"]
    assert [line["found_by"] for line in lines] == ["stamps", "unusual_energies", "", "label_disagreement"]
    assert lines[0]["stamps_score"] == 30
    assert lines[0]["stamps_flagged"]
    assert lines[2]["unusual_energies_score"] is None
    assert scores.searches == ("stamps", "unusual_energies", "label_disagreement")
    assert torch.equal(scores.poison_scores, verdict.scores)
    assert (scores.poison_scores > 1).tolist() == [True, False, False, False]
    assert scores.is_poison_suspect.tolist() == [True, True, False, False]


def test_files_hold_the_same(scores, tmp_path):
    scores.save(tmp_path)
    again = ImageScores.load(tmp_path)
    assert again.table.equals(scores.table)
    lines = list(csv.DictReader((tmp_path / "images.csv").open(newline="")))
    assert [line["name"] for line in lines] == ["a.png", EVIL, "", "d.png"]
    assert lines[2]["unusual_energies_score"] == ""
    assert [line["label_disagreement_flagged"] for line in lines] == ["0", "0", "0", "1"]


def test_a_data_set_gets_columns(scores):
    dataset = Dataset.from_dict({"text": list("abcd")})
    scored = scores.add_to(dataset)
    assert scored.column_names == ["text", "poison_score", "is_poison_suspect"]
    assert scored["is_poison_suspect"][:] == [True, True, False, False]
    assert scored["poison_score"][:] == pytest.approx(scores.poison_scores.tolist())
    assert dataset.column_names == ["text"]
    with pytest.raises(ValueError, match="the 4 rows that were searched, but got 3"):
        scores.add_to(dataset.select(range(3)))


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="puregen detect SRC"):
        ImageScores.load(tmp_path)
    (tmp_path / "images.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match="a table of images"):
        ImageScores.load(tmp_path)
    pq.write_table(pa.table({"row": [1]}), tmp_path / "images.parquet")
    with pytest.raises(ValueError, match="the column 'name'"):
        ImageScores.load(tmp_path)

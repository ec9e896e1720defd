"""What notebooks show, and the example notebook as written."""

import ast
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import puregen_transforms
from puregen_transforms import PureGen, PurifiedDataset, purify_dataset
from puregen_transforms.data.demo import load_demo
from puregen_transforms.detection import DetectionReport, Mark, Verdict
from puregen_transforms.detection.report import count_by_class
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.detection.verdict import LeftOut, Searched, conclude
from puregen_transforms.inspection import inspect_images

EVIL = "<script>alert(1)</script>\x1b[2J\u202e"
NOTEBOOK = Path(puregen_transforms.__file__).parent / "inspection/is_my_data_poisoned.ipynb"


def is_safe(html):
    return "<script" not in html and "\x1b" not in html and "\u202e" not in html and "&lt;script&gt;" in html


@pytest.fixture
def report():
    flagged = torch.tensor([True, False, True])
    mark = Mark(
        kind="stamp",
        rows=torch.tensor([0, 2]),
        picture=torch.full((4, 5, 5), 200, dtype=torch.uint8),
        place=(0, 0),
        ratio=3,
    )
    classes = count_by_class(flagged, torch.tensor([0, 1, 0]), [EVIL, "cat"])
    return DetectionReport(scores=flagged.float(), flagged=flagged, detector="stamps", classes=classes, marks=(mark,))


def test_a_report_shows_its_classes_and_marks(report):
    html = report._repr_html_()
    assert is_safe(html)
    assert "stamps: 2 of 3 images flagged" in html
    assert "data:image/png;base64," in html
    assert "stamp on 2 images, undecided" in html


def test_a_verdict_says_what_was_not_looked_for(report):
    left = LeftOut(search=SEARCHES[1], why=EVIL)
    html = conclude([Searched(search=SEARCHES[0], report=report)], [left], 3)._repr_html_()
    assert is_safe(html)
    assert "Poisoned: 2 of 3 images" in html
    assert SEARCHES[0].finds in html


def test_an_inspection_says_what_to_do(tiny_checkpoint):
    inspection = inspect_images(load_demo().images[:40], budget="2m", checkpoint=tiny_checkpoint, sample=0)
    html = inspection._repr_html_()
    assert html.startswith(inspection.verdict._repr_html_())
    assert "What to do" in html


def test_a_purified_data_set_shows_its_first_images(tmp_path):
    class Pictures(list):
        classes = (EVIL, "cat")

    source = Pictures((Image.new("RGB", (8, 8), color), label) for color, label in (("red", 0), ("blue", 1)))
    purified = purify_dataset(source, PureGen("jpeg"), output_dir=tmp_path / "out")
    html = purified._repr_html_()
    assert isinstance(purified, PurifiedDataset)
    assert is_safe(html)
    assert "2 samples, 2 classes" in html
    assert html.count("data:image/png") == 2


def code_cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_the_example_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown, names = [], {}
    for code in code_cells():
        *first, last = ast.parse(code).body
        exec(compile(ast.Module(first, []), NOTEBOOK.name, "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names))
        else:
            exec(compile(ast.Module([last], []), NOTEBOOK.name, "exec"), names)
    assert [type(value) for value in shown] == [Verdict, DetectionReport, PurifiedDataset]
    assert shown[1].flagged.sum() == 7
    assert len(shown[2]) == 193
    assert all(value._repr_html_() for value in shown)


@pytest.mark.slow
def test_the_example_runs_in_jupyter(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("text/html" in output["data"] for output in outputs) >= 3

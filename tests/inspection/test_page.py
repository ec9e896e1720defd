import csv
import json
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.detection import DetectionReport
from puregen_transforms.detection.searches import SEARCHES
from puregen_transforms.detection.verdict import Searched, conclude
from puregen_transforms.inspection.audit import inspect_images
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.inspection.page import page, write_inspection

EVIL = "dog <script>alert(1)</script>"


@pytest.fixture(scope="module")
def inspected():
    demo = load_demo()
    images, labels = demo.images[:100].clone(), demo.labels[:100]
    rows = (labels == CLASSES.index("dog")).nonzero().flatten()[:6]
    images[rows] = add_trigger(images[rows], demo.trigger)
    names = [EVIL if name == "dog" else name for name in CLASSES]
    origin = Origin(images=images, facts={"source": "a & b"}, name_of=lambda row: f"<i>{row}</i>.png")
    return inspect_images(images, labels, class_names=names, sample=2, budget="2m"), origin, rows.tolist()


def shown(inspection, origin):
    classes = [] if inspection.labels is None else [inspection.class_names[label] for label in inspection.labels]
    return page(inspection.verdict, origin, classes, inspection=inspection)


def test_the_page_stands_alone_and_escapes_names(inspected):
    html = shown(*inspected[:2])
    assert "<script" not in html
    assert "dog &lt;script&gt;" in html
    assert "&lt;i&gt;" in html
    assert "a &amp; b" in html
    sources = re.findall(r'src="([^"]{0,30})', html)
    assert len(sources) >= 3 + 2 + 6 + 2 * 4, "three figures, two estimates, what was found, four pictures of each"
    assert all(source.startswith("data:image/") for source in sources)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)', html))
    assert html.count("data:image/svg+xml") == 3
    assert "None" not in html
    assert "nan" not in re.sub(r"data:image[^\"]*", "", html)


def test_the_page_says_what_was_found(inspected):
    inspection, origin, rows = inspected
    text = shown(inspection, origin)
    for sentence in ("share a hidden pattern", "Leave out the 6 images", inspection.settings["weights_sha256"]):
        assert sentence in text
    assert any(f"row {row}<" in text for row in rows)
    assert text.index("should not be learned") < text.index("What to do") < text.index("Energies in detail")
    order = [
        text.index(f"<td>{name}</td>") for name in ("whole set", "dog &lt;script&gt;alert(1)&lt;/script&gt;", "frog")
    ]
    assert order == sorted(order)


def test_the_files_hold_every_number(inspected, tmp_path):
    inspection, origin, rows = inspected
    (tmp_path / "report.html").write_text("of an earlier run")
    assert write_inspection(inspection, tmp_path, origin) == tmp_path / "report.html"
    names = ["energies.parquet", "images.csv", "images.parquet", "report.html", "searches", "verdict.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    kept = DetectionReport.load(tmp_path / "searches/shared_patterns.safetensors")
    assert kept.flagged.nonzero().flatten().tolist() == rows
    assert "earlier" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    assert record["flagged"] == record["energies"]["patterns"][0]["carriers"] == 6
    assert record["source"] == {"source": "a & b"}
    lines = list(csv.DictReader((tmp_path / "images.csv").open(encoding="utf-8")))
    assert [int(line["row"]) for line in lines if line["verdict"] == "poison"] == rows
    assert lines[3]["name"] == "<i>3</i>.png"
    table = pq.read_table(tmp_path / "energies.parquet").to_pydict()
    assert table["row"] == list(range(100))
    assert table["energy"] == inspection.energies.tolist()
    assert table["label"] == inspection.labels.tolist()
    assert [row for row, pattern in enumerate(table["pattern"]) if pattern] == rows


def test_without_matplotlib_there_are_numbers_and_images(inspected, monkeypatch):
    monkeypatch.setattr("puregen_transforms.inspection.energy_section.has_extra", lambda module: False)
    html = shown(*inspected[:2])
    assert "svg" not in html
    assert "puregen-transforms[report]" in html
    assert "data:image/png" in html


def test_images_that_were_not_purified_are_drawn_with_their_energy(inspected):
    inspection, origin = inspected[:2]
    drawn = replace(inspection, dynamics=None, drawn_rows=inspection.drawn_rows[:1], heat=inspection.heat[:1])
    html = shown(drawn, origin)
    assert html.count('alt="energy"') == 1
    assert 'alt="purified"' not in html
    assert "None was purified" in html
    assert "How purification moves them" not in html


def test_a_page_without_labels_or_findings(tiny_checkpoint):
    images = load_demo().images[:40]
    inspection = inspect_images(images, budget="2m", checkpoint=tiny_checkpoint)
    html = shown(inspection, Origin(images=images, facts={}))
    assert "No hidden pattern and no unusual energies were found in 40 images." in html
    assert "found poison in 40 images" in html
    assert "Not looked for" in html
    assert "The hidden pattern" not in html
    assert "How purification moves them" not in html
    assert "None" not in html.replace(inspection.verdict.headline, "")


def test_poison_is_told_of_before_wrong_labels():
    reports = {"label_disagreement": [2, 3], "class_split": [0, 1]}
    made = [
        Searched(
            search=next(search for search in SEARCHES if search.name == name),
            report=DetectionReport(
                scores=torch.zeros(4).index_fill(0, torch.tensor(rows), 1.5),
                flagged=torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(rows), True),
                classes=(),
            ),
        )
        for name, rows in reports.items()
    ]
    verdict = conclude(made, [], 4, labels=torch.zeros(4, dtype=torch.int64))
    origin = Origin(images=load_demo().images[:4], facts={}, name_of=str)
    text = page(verdict, origin, ["dog"] * 4)
    assert text.index("a part of a class that a classifier") < text.index("labels that do not fit")

import json
import re

import pyarrow.parquet as pq
import pytest

from puregen_transforms.data.demo import CLASSES, add_trigger, load_demo
from puregen_transforms.inspection.audit import inspect_images
from puregen_transforms.inspection.page import Origin, page, write_report

EVIL = "dog <script>alert(1)</script>"


@pytest.fixture(scope="module")
def inspected():
    demo = load_demo()
    images, labels = demo.images[:100].clone(), demo.labels[:100]
    rows = (labels == CLASSES.index("dog")).nonzero().flatten()[:6]
    images[rows] = add_trigger(images[rows], demo.trigger)
    names = [EVIL if name == "dog" else name for name in CLASSES]
    origin = Origin(images=images, facts={"source": "a & b"}, name_of=lambda row: f"<i>{row}</i>.png")
    return inspect_images(images, labels, class_names=names, sample=2), origin, rows.tolist()


def test_the_page_stands_alone_and_escapes_names(inspected):
    html = page(*inspected[:2])
    assert "<script" not in html
    assert "dog &lt;script&gt;" in html
    assert "&lt;i&gt;" in html
    assert "a &amp; b" in html
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert len(sources) >= 3 + 2 + 2 * 3, "three figures, two estimates, and three pictures of each image"
    assert all(source.startswith("data:image/") for source in sources)
    assert html.count("data:image/svg+xml") == 3
    assert "None" not in html
    assert "nan" not in re.sub(r"data:image[^\"]*", "", html)


def test_the_page_says_what_was_found(inspected):
    inspection, origin, rows = inspected
    text = page(inspection, origin)
    for sentence in ("share a hidden pattern", "Leave out the 6 images", inspection.settings["weights_sha256"]):
        assert sentence in text
    assert any(f"row {row}<" in text for row in rows)
    order = [
        text.index(f"<td>{name}</td>") for name in ("whole set", "dog &lt;script&gt;alert(1)&lt;/script&gt;", "frog")
    ]
    assert order == sorted(order)


def test_the_files_hold_every_number(inspected, tmp_path):
    inspection, origin, rows = inspected
    (tmp_path / "report.html").write_text("of an earlier run")
    assert write_report(inspection, tmp_path, origin) == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["energies.parquet", "report.html", "report.json"]
    assert "earlier" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    carriers = [image for image in record["flagged"] if image["pattern"] == 1]
    assert {image["row"] for image in carriers} == set(rows)
    assert carriers[0]["name"] == f"<i>{carriers[0]['row']}</i>.png"
    assert record["source"] == {"source": "a & b"}
    table = pq.read_table(tmp_path / "energies.parquet").to_pydict()
    assert table["row"] == list(range(100))
    assert table["energy"] == inspection.energies.tolist()
    assert table["label"] == inspection.labels.tolist()
    assert [row for row, pattern in enumerate(table["pattern"]) if pattern] == rows


def test_without_matplotlib_there_are_numbers_and_images(inspected, monkeypatch):
    monkeypatch.setattr("puregen_transforms.inspection.page.has_extra", lambda module: False)
    html = page(*inspected[:2])
    assert "svg" not in html
    assert "puregen-transforms[report]" in html
    assert "data:image/png" in html


def test_a_page_without_labels_or_findings(tiny_checkpoint):
    images = load_demo().images[:40]
    html = page(inspect_images(images, sample=2, checkpoint=tiny_checkpoint), Origin(images=images, facts={}))
    assert "No hidden pattern and no unusual energies were found in 40 images." in html
    assert "The hidden pattern" not in html
    assert "Images of highest energy" in html
    assert "None" not in html

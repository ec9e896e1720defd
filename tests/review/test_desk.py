import csv
import io
import json
import time
from dataclasses import replace
from functools import partial
from hashlib import sha256

import PIL.Image
import pytest
import torch

from puregen_transforms import PureGen
from puregen_transforms.data.labelled_source import choose_source
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.detection.marks import Mark
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.inspection.one_detector import write_report
from puregen_transforms.inspection.origin import Origin
from puregen_transforms.review.desk import Filter, read_decision
from puregen_transforms.review.found import finds_of, read_headline
from puregen_transforms.review.suspects import Evidence, Suspects, describe, shows_in_energy
from puregen_transforms.review.views import VIEWS, Views
from tests.review.conftest import EVIL_CLASS


def test_suspects_come_in_order_with_what_speaks_against_them(searched):
    desk = searched.desk()
    listed = desk.suspects.listed
    assert len(listed) == 20
    assert {one.verdict for one in listed} == {"poison"}
    assert [one.score for one in listed] == sorted((one.score for one in listed), reverse=True)
    assert desk.suspects.classes == (EVIL_CLASS,)
    evidence = desk.suspects.evidence_of(listed[0])
    assert "stamps" in [one.search for one in evidence]
    (stamp,) = next(one.marks for one in evidence if one.search == "stamps")
    assert stamp[1].place[0] >= 24
    alike = desk.suspects.alike(listed[0])
    assert len(alike) == 8
    assert listed[0] not in alike


def test_names_of_others_are_text(searched):
    desk = searched.desk()
    whole = desk.page(Filter(), 1) + "".join(map(desk.suspect, desk.suspects.by_digest))
    assert "<script" not in whole
    assert "<img src=x" not in whole
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in whole
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert "<b>20</b>" not in whole


def test_filters_and_pages(searched, monkeypatch):
    monkeypatch.setattr("puregen_transforms.review.desk.PAGE_SIZE", 8)
    desk = searched.desk()
    digests = [one.sha256 for one in desk.suspects.listed]
    assert desk.page(Filter(), 1).count("<figure") == 8
    last = desk.page(Filter(class_name=EVIL_CLASS, kind="poison"), 99)
    assert (last.count("<figure"), "Page <b>3</b> of 3" in last) == (4, True)
    assert "No suspect is left" in desk.page(Filter(class_name="cat"), 1)
    assert desk.decide(digests[3], "keep")["counts"] == {"undecided": 19, "keep": 1, "drop": 0, "unsure": 0}
    assert [one.sha256 for one in desk.chosen(Filter(decision="keep"))] == digests[3:4]
    assert len(desk.chosen(Filter(decision="undecided"))) == 19


def test_ten_thousand_suspects_are_turned_page_by_page(searched):
    few = searched.desk().suspects
    many = tuple(
        replace(few.listed[number % 20], row=number, sha256=sha256(str(number).encode()).hexdigest())
        for number in range(10_000)
    )
    desk = replace(searched.desk(), suspects=replace(few, listed=many))
    started = time.process_time()
    page = desk.page(Filter(kind="poison", decision="undecided"), 167)
    desk.decide(many[-1].sha256, "drop")
    assert time.process_time() - started < 2
    assert page.count("<figure") == 10_000 - 166 * 60
    assert "Page <b>167</b> of 167" in page


def test_decisions_are_exported_with_the_suspects(searched):
    desk = searched.desk()
    first = desk.suspects.listed[0]
    desk.decide(first.sha256, "drop")
    lines = list(csv.DictReader(io.StringIO(desk.lines())))
    assert [line["decision"] for line in lines] == ["drop"] + [""] * 19
    assert [line["name"] for line in lines] == [one.name for one in desk.suspects.listed]


def test_only_decisions_about_suspects_are_taken(searched, tmp_path):
    desk = searched.desk(Decisions.load(tmp_path))
    with pytest.raises(KeyError):
        desk.decide("0" * 64, "keep")
    with pytest.raises(ValueError, match="an answer out of"):
        desk.decide(desk.suspects.listed[0].sha256, "burn")
    for body in (b"", b"[]", b'{"sha256": 1, "answer": "keep"}', b'{"sha256": "a"}', b"[" * 100000):
        with pytest.raises(ValueError, match="a sha256 and an answer"):
            read_decision(body)
    assert not list(tmp_path.iterdir())


def test_a_set_that_has_changed_is_refused(searched, tmp_path):
    def opened(change):
        chosen = choose_source(str(searched.folder), None, None, None)
        return Suspects.open(searched.report, chosen.images, name_of=lambda row: change(chosen.name_of(row)))

    with pytest.raises(ValueError, match="added, removed or renamed"):
        opened(lambda name: name + "x")
    with pytest.raises(FileNotFoundError, match="the report of a whole search"):
        Suspects.open(tmp_path, choose_source(str(searched.folder), None, None, None).images, name_of=str)


def test_views_are_pictures_and_thumbnails_are_made_once(searched, tmp_path, tiny_checkpoint):
    suspects = searched.desk().suspects
    one = suspects.listed[0]
    views = Views(suspects, tmp_path, PureGen(checkpoint=tiny_checkpoint, ebm_steps=2, seed=0, device="cpu"))
    made = views.thumbnail(one)
    assert PIL.Image.open(io.BytesIO(made)).format == "WEBP"
    (kept,) = tmp_path.iterdir()
    assert kept.name == f"{one.sha256}.webp"
    kept.write_bytes(b"kept")
    assert views.thumbnail(one) == b"kept"
    drawn = {kind: PIL.Image.open(io.BytesIO(views.view(one, kind))) for kind in VIEWS}
    assert {(image.format, image.size) for image in drawn.values()} == {("PNG", (32, 32))}
    assert drawn["original"].tobytes() == suspects.pictures[one.row].convert("RGB").tobytes()
    assert drawn["purified"].tobytes() != drawn["original"].tobytes()
    (drawn_energy,) = tmp_path.glob("*.png")
    drawn_energy.write_bytes(b"kept")
    assert views.view(one, "energy") == b"kept"
    assert Views(suspects, tmp_path, PureGen(seed=0)).view(one, "energy") != b"kept", "of another network"
    with pytest.raises(ValueError, match="a view out of"):
        views.view(one, "../secret")


@pytest.mark.parametrize(
    ("found", "shows"),
    [
        ({"unusual_energies": None}, True),
        ({"residual_patterns": "pattern"}, True),
        ({"residual_patterns": "local pattern"}, False),
        ({"stamps": "stamp", "residual_patterns": "pattern"}, False),
        ({"stamps": "stamp", "unusual_energies": None}, True),
        ({"label_disagreement": None}, False),
    ],
)
def test_the_energy_is_shown_where_it_tells_something(found, shows):
    picture, rows = torch.zeros(4, 2, 2, dtype=torch.uint8), torch.arange(8)
    evidence = []
    for search, kind in found.items():
        mark = Mark(kind=kind, rows=rows, picture=picture, place=(3, 4), ratio=1.0) if kind else None
        evidence.append(Evidence(search=search, finds="", score=None, marks=((0, mark),) if mark else ()))
        assert mark is None or describe(mark).startswith(f"{kind} on 8 images")
    assert shows_in_energy(evidence) is shows


def test_only_what_is_not_suspected_is_ordinary(searched):
    suspects = searched.desk().suspects
    assert sorted([*suspects.clean_rows(), *(one.row for one in suspects.listed)]) == list(range(len(suspects.scores)))
    assert 0 < len(suspects.clean_rows("cat")) < len(suspects.clean_rows())


def test_the_report_of_one_detector_is_looked_at_likewise(searched, tmp_path):
    chosen = choose_source(str(searched.folder), None, None, None)
    report = DetectionReport.load(searched.report / "searches/stamps.safetensors")
    (tmp_path / "verdict.json").write_text("of an earlier search")
    origin = Origin(images=chosen.images, facts={}, name_of=chosen.name_of, opened=chosen.opened)
    write_report(report, tmp_path, origin)
    assert json.loads((tmp_path / "opened.json").read_text())["source"] == str(searched.folder)
    opened = partial(Suspects.open, tmp_path, chosen.images, class_names=chosen.class_names)
    suspects = opened(name_of=chosen.name_of, labels=chosen.labels)
    assert sorted(one.row for one in suspects.listed) == report.flagged.nonzero().flatten().tolist()
    assert {(one.verdict, one.class_name, one.found_by) for one in suspects.listed} == {
        ("flagged", EVIL_CLASS, "stamps")
    }
    assert all(1 < one.score <= 2 for one in suspects.listed)
    (evidence,) = suspects.evidence_of(suspects.listed[0])
    assert evidence.marks[0][1].kind == "stamp"
    headline = read_headline(tmp_path)
    assert (headline.text, headline.level) == (
        f"stamps flags {len(suspects)} of {len(report)} images. One detector alone is no verdict.",
        "flagged",
    )
    with pytest.raises(ValueError, match="added, removed or renamed"):
        opened(name_of=str, labels=chosen.labels)
    with pytest.raises(ValueError, match="rows that were searched"):
        opened(name_of=chosen.name_of, labels=chosen.labels[1:])
    (tmp_path / "images.csv").unlink()
    with pytest.raises(FileNotFoundError, match="images.csv"):
        opened(name_of=chosen.name_of, labels=chosen.labels)


def test_a_detector_that_is_no_search_says_what_it_flags():
    assert finds_of("spectral_signatures").startswith("Flag, in each class")
    assert finds_of("stamps") == "the same patch at the same place of several images"
    assert finds_of("of somebody") == "of somebody"


def test_suspects_are_compared_with_the_most_alike_of_their_class(searched, monkeypatch):
    def without(name=None):
        raise ImportError(name)

    monkeypatch.setattr("puregen_transforms.review.neighbors.load_backbone", without)
    desk = searched.desk()
    suspects = desk.suspects
    clean = suspects.clean_rows("cat")
    asked = replace(suspects.listed[0], row=clean[5])
    rows, compared = desk.neighbors.near(asked, "cat")
    assert rows[0] == clean[5], "an image is most like itself"
    assert set(rows) <= set(clean)
    assert (len(rows), compared) == (4, min(256, len(clean)))
    assert desk.neighbors.near(asked, "unheard of").rows == []
    html = desk.near(suspects.listed[0].sha256)
    assert html.count("review/row/") == 4
    assert "Ordinary images of class dog &lt;script" in html
    assert "by shape and color" in html


def test_any_image_of_the_set_has_a_thumbnail_and_nothing_else(searched, tmp_path):
    suspects = searched.desk().suspects
    views = Views(suspects, tmp_path, PureGen(seed=0))
    assert PIL.Image.open(io.BytesIO(views.thumbnail_of(3))).size == (32, 32)
    for row in (-1, len(suspects.pictures)):
        with pytest.raises(IndexError):
            views.thumbnail_of(row)

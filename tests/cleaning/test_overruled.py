"""What a person decided in `puregen review` counts when a set is cleaned."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from puregen_transforms import clean_dataset
from puregen_transforms.detection.decisions import Decisions
from puregen_transforms.inspection.image_scores import ImageScores
from puregen_transforms.review.suspects import Suspects
from tests.cleaning.conftest import POISONED, cells, images_of, write_folder
from tests.cleaning.test_clean_command import clean, run


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def reviewed(folder, tmp_path):
    """A cleaned folder, of which a person keeps one suspect and drops another image."""
    clean(folder, tmp_path / "out")
    stored = images_of(folder)
    gone, kept = sorted(set(stored) - set(images_of(tmp_path / "out"))), sorted(images_of(tmp_path / "out"))
    decisions = Decisions.load(tmp_path / "out.report")
    decisions.decide(sha256(stored[gone[0]]), "keep", name=gone[0])
    decisions.decide(sha256(stored[kept[0]]), "drop", name=kept[0])
    return gone[0], kept[0]


def test_the_next_run_honors_it_and_says_so(folder, tmp_path, reviewed):
    keep, drop = reviewed
    before = images_of(tmp_path / "out")
    refused = run(folder, tmp_path / "out")
    assert refused.exit_code == 1, "there is a copy by another rule"
    assert "decisions" in refused.output
    shutil.rmtree(tmp_path / "out")
    clean(folder, tmp_path / "out")
    after = images_of(tmp_path / "out")
    assert set(after) == {*before, keep} - {drop}
    assert "poison, a person said" in (tmp_path / "out/skipped.json").read_text()
    assert "2 of a person, by content" in (tmp_path / "out.report/report.html").read_text()
    assert run(tmp_path / "out", command="verify").exit_code == 0


def test_names_do_not_matter(pictures, tmp_path, reviewed):
    renamed = write_folder(tmp_path / "renamed", pictures, name=lambda row, label: f"class{label}/image{row:03d}.png")
    clean(renamed, tmp_path / "clean", "--decisions", tmp_path / "out.report")
    kept = {int(name[-7:-4]) for name in images_of(tmp_path / "clean")}
    assert int(reviewed[0][-7:-4]) in kept
    assert int(reviewed[1][-7:-4]) not in kept
    assert len(kept) == len(pictures) - len(POISONED)


def test_decisions_about_rows_of_a_table(table):
    decisions = Decisions()
    decisions.decide(sha256(cells(table)[POISONED[0]]), "keep")
    found = clean_dataset(table, budget="2m", device="cpu", decisions=decisions)
    assert found.removed["id"][:] == POISONED[1:]


def test_the_report_of_a_clean_copy_can_be_reviewed(folder, tmp_path):
    clean(folder, tmp_path / "out")
    assert len(ImageScores.load(tmp_path / "out.report")) == len(images_of(folder))
    from puregen_transforms.data.labelled_source import choose_source

    chosen = choose_source(str(folder), None, None, None)
    suspects = Suspects.open(
        tmp_path / "out.report", chosen.images, name_of=chosen.name_of, class_names=chosen.class_names
    )
    assert len(suspects) == len(POISONED)

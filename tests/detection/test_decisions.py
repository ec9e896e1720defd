import hashlib
import json
import os
import signal
from threading import Thread

import pytest
import torch

from puregen_transforms.detection.decisions import Decision, Decisions, honor
from puregen_transforms.detection.report import DetectionReport
from puregen_transforms.detection.searches import DOUBT, SEARCHES
from puregen_transforms.detection.verdict import NOTHING_FOUND, Searched, conclude

ONE, TWO, THREE = (hashlib.sha256(word).hexdigest() for word in (b"one", b"two", b"three"))


def test_a_decision_is_on_the_disk_at_once_and_the_last_one_counts(tmp_path):
    decisions = Decisions.load(tmp_path)
    decisions.decide(ONE, "drop", name='<b>"a".png')
    decisions.decide(ONE, "keep")
    decisions.decide(TWO, "unsure")
    again = Decisions.load(tmp_path / "decisions.jsonl")
    assert again.of([TWO, ONE, THREE, None]) == ["unsure", "keep", None, None]
    assert len(again) == 2
    decisions.decide(ONE, None)
    again.refresh()
    assert again.of([ONE]) == [None]
    assert [one.sha256 for one in again] == [TWO]


def test_a_line_that_a_crash_cut_off_costs_that_line_alone(tmp_path):
    path = tmp_path / "decisions.jsonl"
    Decisions.load(path).decide(ONE, "keep")
    with path.open("ab") as file:
        file.write(b'{"sha256": "abc')
    later = Decisions.load(path)
    assert later.of([ONE]) == ["keep"]
    later.decide(TWO, "drop")
    assert Decisions.load(path).of([ONE, TWO]) == ["keep", "drop"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_loses_nothing_that_it_had_decided(tmp_path):
    reading, writing = os.pipe()
    if not (child := os.fork()):
        decisions = Decisions.load(tmp_path)
        for number in range(10**9):
            decisions.decide(hashlib.sha256(str(number).encode()).hexdigest(), "drop")
            os.write(writing, f"{number}\n".encode())
    os.close(writing)
    with os.fdopen(reading) as said:
        lines = [said.readline() for _ in range(50)]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines += said.readlines()
    told = [hashlib.sha256(line.strip().encode()).hexdigest() for line in lines if line.endswith("\n")]
    assert len(told) >= 50
    assert set(Decisions.load(tmp_path).of(told)) == {"drop"}


def test_several_writers_of_one_file_lose_nothing(tmp_path):
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(80)]

    def write(own):
        decisions = Decisions.load(tmp_path)
        for digest in own:
            decisions.decide(digest, "keep")

    threads = [Thread(target=write, args=(digests[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Decisions.load(tmp_path).of(digests) == ["keep"] * 80


def test_a_file_that_was_removed_has_no_decisions_any_more(tmp_path):
    decisions = Decisions.load(tmp_path)
    for digest in (ONE, TWO):
        decisions.decide(digest, "keep")
    decisions.path.unlink()
    decisions.refresh()
    assert not len(decisions)
    decisions.decide(THREE, "drop")
    decisions.refresh()
    assert decisions.of([ONE, TWO, THREE]) == [None, None, "drop"]


def test_merging_takes_over_what_is_later(tmp_path):
    here, there = Decisions.load(tmp_path), Decisions()
    here.decide(ONE, "keep")
    there.decide(ONE, "drop")
    there.decide(TWO, "drop")
    here.decide(TWO, "unsure")
    assert here.merge(there) == 1
    assert Decisions.load(tmp_path).of([ONE, TWO]) == ["drop", "unsure"]
    assert here.merge(there) == 0


def test_what_is_no_decision_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep, drop, unsure, but got 'away'"):
        Decisions(tmp_path / "none").decide(ONE, "away")
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        Decision(sha256="../../etc/passwd", answer="keep")
    assert not (tmp_path / "none").exists()
    (tmp_path / "decisions.jsonl").write_text(json.dumps({"sha256": ONE, "answer": "\x1b[2J"}) + "\n")
    with pytest.raises(ValueError, match="one a line") as raised:
        Decisions.load(tmp_path)
    assert "\x1b" not in str(raised.value)


def searched(name, flags):
    search = next(search for search in SEARCHES if search.name == name)
    flagged = torch.tensor(flags).bool()
    return Searched(search=search, report=DetectionReport(scores=flagged.float(), flagged=flagged))


def test_a_person_overrules_a_verdict():
    made = [searched("stamps", [1, 1, 0, 0, 0]), searched("unusual_energies", [0, 0, 1, 1, 0])]
    assert made[1].search.means == DOUBT
    verdict = conclude(made, [], 5)
    changed = honor(verdict, ["keep", "unsure", "keep", "drop", "drop"])
    assert changed.flagged.tolist() == [False, True, False, True, True]
    assert changed.doubtful.tolist() == [False] * 5
    assert changed.found_by.tolist() == [-1, 0, -1, 1, -1]
    assert changed.made[0].report.flagged.tolist() == [False, True, False, False, False]
    assert honor(verdict, ["keep"] * 5).level == NOTHING_FOUND
    assert honor(verdict, [None] * 5) is verdict
    with pytest.raises(ValueError, match="each of 5 images, but got 1"):
        honor(verdict, ["keep"])

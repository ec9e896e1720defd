"""What was left out is listed, and a time is said in words."""

from __future__ import annotations

import json

import pytest

from puregen_transforms._progress import duration
from puregen_transforms.whole_sets.summary import Skipped, UnreadableImageError, skipped_as_json

LEFT_OUT = Skipped(place={"split": "train", "row": 3}, reason="it is no image")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 0 min"), (35_400, "9 h 50 min"), (1e6, "11 d 13 h")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_what_was_left_out_comes_back():
    assert Skipped.from_dict(LEFT_OUT.to_dict()) == LEFT_OUT
    assert str(LEFT_OUT) == "split train, row 3: it is no image"
    assert json.loads(skipped_as_json((LEFT_OUT,))) == [LEFT_OUT.to_dict()]


def test_names_that_are_no_unicode_can_be_listed():
    odd = Skipped(place={"file": "a\udcff.png"}, reason="x")
    assert json.loads(skipped_as_json((odd,))) == [{"file": "a\udcff.png", "reason": "x"}]


def test_the_error_says_where_and_what_to_do():
    error = UnreadableImageError(LEFT_OUT)
    assert error.skipped == LEFT_OUT
    assert (
        'not so split train, row 3: it is no image. Mend or remove it, or leave out such images with on-error "skip"'
        in str(error)
    )

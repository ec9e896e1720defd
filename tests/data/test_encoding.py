"""The quality that images were stored with."""

from __future__ import annotations

import pytest

from puregen_transforms.data.encoding import commonest_quality, jpeg_quality
from tests.cli.files import encoded, opened, picture


@pytest.mark.parametrize("quality", [1, 30, 49, 50, 75, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality):
    assert jpeg_quality(opened(encoded(picture(0), "JPEG", quality=quality))) == quality


def test_other_formats_have_none():
    assert jpeg_quality(opened(encoded(picture(0), "PNG"))) is None
    assert jpeg_quality(picture(0)) is None


def test_most_of_a_set_decide():
    jpegs = [opened(encoded(picture(row), "JPEG", quality=80)) for row in range(3)]
    assert commonest_quality([*jpegs, picture(4)]) == 80
    assert commonest_quality([jpegs[0], picture(1), picture(2)]) is None
    assert commonest_quality([]) is None

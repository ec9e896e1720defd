"""Names of the images of a copy."""

import pytest

from puregen_transforms.whole_sets.storage import LOSSLESS
from puregen_transforms.whole_sets.target_names import choose_target_names


def wished(formats):
    return {path: LOSSLESS.name_of(path, image_format) for path, image_format in formats.items()}


@pytest.mark.parametrize(
    ("formats", "taken", "expected"),
    [
        ({"a.jpg": "PNG", "b.png": "PNG", "c.bmp": "BMP"}, [], ["a.png", "b.png", "c.bmp"]),
        ({"a.jpg": "PNG", "A.PNG": "PNG"}, [], ["a.jpg.png", "A.PNG"]),
        ({"a.jpg": "PNG"}, ["a.png"], ["a.jpg.png"]),
        ({"a.png": "PNG", "A.png": "PNG"}, [], ["a.png", "A.png"]),
        ({"scan.bmp": "PNG"}, [], ["scan.png"]),
    ],
)
def test_names_stay_apart_on_every_disk(formats, taken, expected):
    targets, _ = choose_target_names(wished(formats), taken=taken)
    assert list(targets.values()) == expected


def test_a_name_that_becomes_too_long_is_refused():
    name = "é" * 125 + ".jpg"  # 254 bytes
    assert choose_target_names(wished({name: "PNG"}), taken=[])[0] == {name: "é" * 125 + ".png"}
    with pytest.raises(ValueError, match=r"at most 255 bytes, but é+\.jpg would become"):
        choose_target_names(wished({name: "PNG"}), taken=["é" * 125 + ".png"])

"""A cell's bytes come from the table, or from a file that the source may name."""

from __future__ import annotations

import pytest

from puregen_transforms.data.cells import ANYWHERE, Places, is_empty
from puregen_transforms.data.images import ImageProblemError


def named(path):
    return {"bytes": None, "path": str(path)}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home/inner").mkdir(parents=True)
    (tmp_path / "home/inner/a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    return tmp_path / "home"


def test_stored_bytes_need_no_file():
    assert Places(()).read({"bytes": b"x", "path": "/gone.png"}) == b"x"


def test_names_are_below_the_folder_from_the_root_or_not(home):
    places = Places.of_source(str(home))
    assert places.read(named("inner/a.png")) == b"a"
    assert places.read(named(home / "inner/a.png")) == b"a"


@pytest.mark.parametrize("name", ["../b.png", "{top}/b.png", "inner/gone.png", "inner"])
def test_no_other_file_is_read(home, name):
    with pytest.raises(ImageProblemError, match="there is no such file below"):
        Places.of_source(str(home)).read(named(name.format(top=home.parent)))


def test_links_out_of_it_are_followed_on_demand(home):
    (home / "c.png").symlink_to(home.parent / "b.png")
    with pytest.raises(ImageProblemError):
        Places.of_source(str(home)).read(named("c.png"))
    assert Places.of_source(str(home), follow_links=True).read(named("c.png")) == b"b"


def test_what_the_users_own_program_has_opened_may_name_any_file(home):
    assert ANYWHERE.read(named(home / "inner/a.png")) == b"a"


@pytest.mark.parametrize(
    ("cell", "expected"), [(None, True), ({"bytes": None, "path": None}, True), ({"bytes": b"", "path": None}, False)]
)
def test_a_cell_without_an_image(cell, expected):
    assert is_empty(cell) is expected

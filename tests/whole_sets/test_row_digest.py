"""A hash of rows does not depend on how they are cut into tables."""

from __future__ import annotations

import pyarrow as pa
import pytest

from puregen_transforms.data.cells import Places
from puregen_transforms.whole_sets.row_digest import RowDigest


def digest(*tables, places=Places(())):  # noqa: B008
    found = RowDigest(places)
    for table in tables:
        found.add(table)
    return found.hexdigest()


def rows(*values):
    return pa.table({"x": pa.array(values)})


def test_cuts_do_not_matter_and_the_order_does():
    table = rows(1, None, 3)
    assert digest(table) == digest(table.slice(0, 1), table.slice(1))
    assert digest(table) != digest(table.slice(1), table.slice(0, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rows("1"), rows(1)),
        (rows(True), rows(1)),
        (rows(b"a"), rows("a")),
        (rows("ab", "c"), rows("a", "bc")),
        (rows([1], [2]), rows([1, 2], [])),
        (rows({"a": 1}), rows({"b": 1})),
        (rows(None), rows("None")),
    ],
)
def test_values_that_differ_are_told_apart(one, other):
    assert digest(one) != digest(other)


def test_what_a_cell_names_is_part_of_it(tmp_path):
    named, places = rows({"bytes": None, "path": "a.png"}), Places((tmp_path,))
    missing = digest(named, places=places)
    (tmp_path / "a.png").write_bytes(b"one")
    before = digest(named, places=places)
    (tmp_path / "a.png").write_bytes(b"two")
    assert len({missing, before, digest(named, places=places)}) == 3

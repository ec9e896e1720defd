"""Names out of data lead nowhere but below the folder they belong to."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from puregen_transforms._files import below, hash_file, is_regular, parse_json, write_atomically

PACKAGE = Path(__file__).parents[2] / "puregen_transforms"

FOREIGN = {"record", "cell", "manifest", "class_names", "skipped", "file", "split"}
"""Variables that hold what data, records or manifests say; what they are subscripted or asked for is foreign, too."""


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "/etc/passwd", "", ".", "a\0b", None, 3, "out", "out/x"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="Expected"):
        below(tmp_path / "in", name)


def test_names_below_a_folder_pass(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "a/b.png", "new", "link/x", "a b::c", "....", "ä"):
        assert below(tmp_path, name) == tmp_path / name


def joins_of_foreign_names(source: str) -> list[int]:
    """Find the lines where `/` joins something to a path that a foreign variable has said."""

    def is_foreign(node):
        while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
            node = node.func if isinstance(node, ast.Call) else node.value
        return isinstance(node, ast.Name) and node.id in FOREIGN

    def says_foreign(node):
        if isinstance(node, ast.JoinedStr):
            return any(is_foreign(part.value) for part in node.values if isinstance(part, ast.FormattedValue))
        return isinstance(node, (ast.Attribute, ast.Subscript)) and is_foreign(node)

    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and says_foreign(node.right)
    ]


def test_nothing_else_joins_foreign_names_to_paths():
    assert joins_of_foreign_names("x = folder / record['name']\ny = folder / f'{record.name}.json'") == [1, 2]
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line in joins_of_foreign_names(path.read_text())
        if not is_arithmetic(path, line)
    }
    assert not found, "join these with `below`"


def is_arithmetic(path: Path, line: int) -> bool:
    """Tell whether a line divides numbers: those of records of time, counts and the like."""
    words = path.read_text().splitlines()[line - 1]
    return not any(word in words for word in ("folder", "path", "state /", "home", "output", "temporary", "top"))


def test_devices_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zero", Path("/dev/zero"), tmp_path, Path("a\0b")):
        assert not is_regular(path)
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match="Expected a file"):
            hash_file(tmp_path / name)


def test_nested_json_is_an_error_of_ours():
    with pytest.raises(ValueError, match="Expected JSON in here"):
        parse_json("[" * 100_000, "here")


def test_a_planted_link_is_not_written_through(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".card.md.guessed.tmp").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "card.md", b"new")
    assert (tmp_path / "mine").read_text() == "mine"

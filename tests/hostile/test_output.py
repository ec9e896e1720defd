"""Foreign text is shown as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from puregen_transforms._text import as_markdown, shown
from puregen_transforms.cli.output import PlainConsole, say

COMMANDS = Path(__file__).parents[2] / "puregen_transforms/cli"

ODD = "\x1b]0;owned\x07\x1b[2J\u202egnp.a\u2028\ud800[/x]"


def test_what_steers_a_terminal_is_escaped():
    assert shown(ODD) == "\\x1b]0;owned\\x07\\x1b[2J\\u202egnp.a\\u2028\\ud800[/x]"
    for plain in ("a.png", "Ä b, c", "日本", "é"):
        assert shown(plain) == plain


def test_commands_print_it_so(capsys):
    say(ODD)
    PlainConsole().print(f"Look at {ODD}")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("[/x]") == 2


def test_commands_print_in_no_other_way():
    for path in COMMANDS.glob("*.py"):
        if path.name != "output.py":
            assert not re.search(r"typer\.echo\(|(?<!Plain)\bConsole\(|\bprint\(\w+\)$", path.read_text()), path.name


def test_markdown_holds_no_markup_of_others():
    assert as_markdown("<script>x</script>") == "&lt;script>x&lt;/script>"
    assert as_markdown("a|b](http://x)") == "a\\|b]\\(http://x)"


@pytest.mark.parametrize("name", ["$x^$", "a$b\\frac{$c"])
def test_figures_take_no_name_for_a_formula(name, tmp_path):
    pytest.importorskip("matplotlib")
    from puregen_transforms._figures import new_figure, save_figure

    figure = new_figure(2, 2)
    figure.add_subplot().set_title(name)
    figure.tight_layout()
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()

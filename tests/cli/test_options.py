"""Options of the commands: where they stand, what they say, and what they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from puregen_transforms._docs import argument_docs
from puregen_transforms.cli.main import app
from puregen_transforms.cli.options import METHOD, RUNNING, options_of
from puregen_transforms.purifier.puregen_config import PureGenConfig

PANELS = {"Method", "Networks", "Data", "Running"}


@dataclass(frozen=True, kw_only=True)
class Cooking:
    """Settings.

    Args:
        heat: how hot
            it gets.
        minutes: time.
    """

    heat: Literal["low", "high"] = "low"
    minutes: int | None = None


def command_of(*words):
    found = get_command(app)
    for word in words:
        found = found.commands[word]
    return found


def test_the_fields_of_a_dataclass_become_options_of_a_command():
    got = {}

    @options_of(Cooking, panels={"Cooking": METHOD, "minutes": RUNNING})
    def cook(dish: Annotated[str, typer.Argument()], **settings: Any) -> None:
        got.update(settings, dish=dish)

    cli = typer.Typer()
    cli.command()(cook)
    assert CliRunner().invoke(cli, ["soup"]).exit_code == 0
    assert got == {"dish": "soup", "heat": "low"}, "what was not given is left to the dataclass"
    assert CliRunner().invoke(cli, ["soup", "--heat", "high", "--minutes", "5"]).exit_code == 0
    assert got == {"dish": "soup", "heat": "high", "minutes": 5}
    refused = CliRunner().invoke(cli, ["soup", "--heat", "medium"])
    assert refused.exit_code == 2
    assert "low" in refused.output and "high" in refused.output
    help_text = CliRunner().invoke(cli, ["--help"]).output
    assert "How hot it gets." in help_text
    assert help_text.index("Method") < help_text.index("Running")


def test_purify_offers_every_option_of_puregen_with_its_documentation_and_default():
    options = {option.name: option for option in command_of("purify").params}
    docs = argument_docs(PureGenConfig)
    for name in PureGenConfig.__dataclass_fields__:
        if name != "columns":  # --column, which also takes what no PureGen does: the column of a table
            assert options[name].help.lower() == docs[name].lower()
            assert options[name].default == {"seed": 0}.get(name, getattr(PureGenConfig, name))


@pytest.mark.parametrize("words", [["purify"], ["train", "ebm"], ["train", "ddpm"]])
def test_options_stand_under_headings(words):
    for option in command_of(*words).params:
        if option.param_type_name == "option" and option.name != "help":
            assert option.rich_help_panel in PANELS, option.name


@pytest.mark.parametrize(
    "words",
    [["purify"], ["train", "ebm"], ["train", "ddpm"], ["demo"], ["hub", "pull"], ["hub", "push"], ["hub", "card"]],
)
def test_every_line_of_help_stands_alone(words):
    for parameter in command_of(*words).params:
        text = getattr(parameter, "help", None)
        if parameter.name != "help":
            assert text, parameter.name
            assert not text.startswith(("Of ", "In the same", "That ")), text
            assert "[" not in text, "rich would take it for markup, and not show it"

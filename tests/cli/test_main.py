"""The command itself."""

from __future__ import annotations

from importlib import metadata

from typer.testing import CliRunner

from puregen_transforms.cli.main import app


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"puregen-transforms {metadata.version('puregen-transforms')}\n")


def test_without_a_command_there_is_help():
    result = CliRunner().invoke(app, [])
    assert "Usage" in result.output
    assert "--version" in result.output

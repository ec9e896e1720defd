import json

import pytest
from typer.testing import CliRunner

from puregen_transforms.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["review", *map(str, arguments)])


def told(*arguments):
    done = run(*arguments)
    assert done.exit_code == 1
    return " ".join(done.output.split())


def test_what_is_no_report_is_refused(tmp_path):
    assert "puregen detect SRC --output DIR" in told(tmp_path)
    for content in ("[]", "{}", '{"opened": 5}'):
        (tmp_path / "verdict.json").write_text(content)
        assert "Search the set again" in told(tmp_path)
    (tmp_path / "verdict.json").write_text('{"opened": {')
    assert "Expected JSON" in told(tmp_path)


def test_the_report_of_one_detector_names_its_data_set_or_asks_for_it(tmp_path):
    (tmp_path / "report.safetensors").write_bytes(b"")
    assert "Name it after DIR" in told(tmp_path)
    (tmp_path / "opened.json").write_text('{"source": "/nowhere/at all"}')
    assert "nothing at '/nowhere/at all'" in told(tmp_path)
    (tmp_path / "opened.json").write_text("[]")
    assert "Search the set again" in told(tmp_path)


@pytest.mark.parametrize(("opened", "words"), [
    ({"source": "x", "size": "big"}, "'size' of type int"),
    ({"source": "x", "column": ["a"]}, "'column' of type str"),
    ({"source": None}, "Name it after DIR"),
    ({"source": "/nowhere/at all"}, "nothing at '/nowhere/at all'"),
])  # fmt: skip
def test_a_report_that_names_no_data_set_is_refused(tmp_path, opened, words):
    (tmp_path / "verdict.json").write_text(json.dumps({"opened": opened}))
    assert words in told(tmp_path)

"""Every benchmark of attacks and defenses, at its smallest preset."""

import importlib
import json
import sys

import pytest

from puregen_transforms.evaluate.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Shared, so that what several benchmarks need is computed once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_smoke(name, runs, monkeypatch, capsys):
    output = runs / f"{name}.json"
    command = [name, "--preset", "smoke", "--runs", str(runs), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    module = importlib.import_module(name)
    module.main(name, module.__doc__)
    record = json.loads(output.read_text())
    assert record["cells"]
    poisoned = [cell for cell in record["cells"] if cell["cell"]["attack"]["name"] != "none"]
    assert poisoned
    for cell in poisoned:
        assert 0 <= cell.get("success", 0) <= 1
        assert cell["poison"]["poisoned_rows"] >= 1
    lines = {cell["cell"]["defense"]["name"] for cell in record["cells"]}
    if len(lines) == 1:
        lines = {cell["cell"]["attack"]["group"] for cell in record["cells"]}
    assert len(lines) >= 2
    shown = capsys.readouterr().out
    for line in lines:
        assert f"| {line} |" in shown
    assert "the figures mean nothing" in output.with_suffix(".md").read_text()

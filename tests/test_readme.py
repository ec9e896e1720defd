"""The documents: their code runs as written, their tables are those of the records, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import pytest
import torch
from datasets import Dataset
from record_quality import DOCUMENTS, all_tables, tables_in, with_tables
from typer.main import get_command
from typer.testing import CliRunner

from puregen_transforms.cli.main import app

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "puregen_transforms").rglob("README.md"))
RUN = [README, ROOT / "benchmarks/RESULTS.md", *GUIDES]
"""Documents all of whose blocks are run."""
ALL = [*RUN, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
INSTALLING = "pip install uv && uv run "
"""What the tests' own environment stands for."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_document = pytest.mark.parametrize("path", list(dict.fromkeys(ALL)), ids=name_of)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Code of a document; a slow one has `<!-- slow -->` above it, runs with --runslow, in processes of its own."""

    language: str
    code: str
    slow: bool

    @property
    def commands(self) -> list[list[str]]:
        lines = [line.removeprefix(INSTALLING) for line in self.code.splitlines()]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(path: Path) -> list[Block]:
    found = re.findall(r"^(<!-- slow -->\n)?```(\w*)\n(.*?)^```$", text_of(path), flags=re.DOTALL | re.MULTILINE)
    return [Block(language, code, bool(slow)) for slow, language, code in found]


@pytest.fixture
def my_images(tmp_path, monkeypatch, images):
    """The files that the examples are about, in the folder where they run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:12]]
    for index, picture in enumerate(pictures):
        folder = tmp_path / "my_images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index}.png")
    rows = {"image": pictures, "label": [0, 1] * 6, "id": list(range(12))}
    Dataset.from_dict(rows).to_parquet("my_images.parquet")


def run_in_process(command: list[str]) -> None:
    assert command[0] == "puregen", command
    result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{shlex.join(command)}\n{result.output}"


MODULES = {"puregen": "puregen_transforms", "torchrun": "torch.distributed.run"}


def run_as_process(command: list[str]) -> None:
    # Under `uv run` Ray would have every worker make an environment of its own first.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", MODULES[command[0]], *command[1:]], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"


def run_blocks(path: Path, *, slow: bool) -> dict[str, object]:
    """Run a document's blocks in order, and give the names that its Python leaves."""
    names: dict[str, object] = {}
    for block in blocks_of(path):
        if block.slow and not slow:
            continue
        if block.language == "python":
            exec(compile(block.code, name_of(path), "exec"), names)
        for command in block.commands if block.language == "bash" else ():
            (run_as_process if block.slow else run_in_process)(command)
    return names


@pytest.mark.timeout(1200)  # with --runslow
def test_the_examples_of_the_readme(my_images, pytestconfig):
    names = run_blocks(README, slow=pytestconfig.getoption("--runslow"))
    assert names["image"].shape == (3, 32, 32)
    assert names["label"] == 0
    assert names["purified"].features == names["dataset"].features
    assert names["clean"].features == names["dataset"].features
    assert len(names["kept"]) == 12
    assert Path("inspect-report/report.html").exists()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", [path for path in RUN if path != README and blocks_of(path)], ids=name_of)
def test_the_examples_of_a_guide(path, my_images, pytestconfig):
    names = run_blocks(path, slow=pytestconfig.getoption("--runslow"))
    if path.parent.name == "transforms":
        assert names["energies"].shape == (8,)
        assert names["repaired"].features == names["dataset"].features
        assert names["purified"].shape == names["images"].shape
    if path.parent.name == "attacks":
        assert sum(a != b for a, b in zip(names["poisoned"]["image"], names["dataset"]["image"], strict=True)) == 3


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_every_block_is_of_a_kind_that_is_run(path):
    fences = re.findall(r"^ *(?:```|~~~)(.*)$", text_of(path), flags=re.MULTILINE)
    blocks = blocks_of(path)
    assert len(fences) == 2 * len(blocks)
    assert {block.language for block in blocks} <= {"python", "bash"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_tables_are_those_of_the_records(path):
    text = text_of(path)
    assert with_tables(text) == text


def test_every_table_stands_in_one_document():
    assert sorted(name for path in DOCUMENTS for name in tables_in(text_of(path))) == sorted(all_tables())


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) <= 200


def test_the_readme_leads_to_every_guide():
    for path in (*GUIDES, ROOT / "benchmarks/RESULTS.md", ROOT / "CONTRIBUTING.md"):
        assert f"]({name_of(path)})" in text_of(README)


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text_of(path)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text_of(path))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), target
        assert not anchor or anchor in anchors_of(found), target


def leaves(command, *names: str) -> Iterator[tuple[str, ...]]:
    """Names of all commands that are no group."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, *names, name)
    if not hasattr(command, "commands"):
        yield names


COMMANDS = list(leaves(get_command(app)))


def test_all_commands_are_known_here():
    assert {names[0] for names in COMMANDS} >= {
        "attack", "clean", "demo", "doctor", "evaluate", "hub", "inspect", "purify", "report", "train", "verify"
    }  # fmt: skip


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_is_described_and_explains_itself(names):
    assert f"puregen {names[0]}" in text_of(README)
    assert any(f"puregen {' '.join(names)}" in text_of(path) for path in RUN)
    result = CliRunner().invoke(app, [*names, "--help"])
    assert result.exit_code == 0, result.output


def commands_in(path: Path) -> list[str]:
    """Inline code, and the commands of all blocks, the slow ones too."""
    inline = re.findall(r"`([^`]+)`", without_blocks(text_of(path)).replace("\n", " "))
    blocks = [block for block in blocks_of(path) if block.language == "bash"]
    return [*inline, *(shlex.join(command) for block in blocks for command in block.commands)]


def options_of(words: list[str]) -> set[str]:
    """The options of the command that comes first in a line, which has to be one."""
    command, words = get_command(app), list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    return {name for parameter in command.params for name in parameter.opts} | {"--help"}


@every_document
def test_commands_in_the_text_have_the_options_that_they_are_given(path):
    for line in commands_in(path):
        if found := re.search(r"(?:\bpuregen|-m puregen_transforms) ([a-z].*)", line):
            words = found[1].split()
            known = options_of(words)
        elif found := re.search(r"\bpython (benchmarks/\w+\.py)(.*)", line):
            words = found[2].split()
            helpers = [ROOT / "benchmarks/protocol.py"]
            known = set(re.findall(r'"(--[\w-]+)"', "".join(map(text_of, (ROOT / found[1], *helpers)))))
        else:
            continue
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_detector_of_the_contributing_guide_works(monkeypatch):
    monkeypatch.setattr("puregen_transforms.detection.registry.DETECTORS", {})
    (code,) = re.findall(r"```python\n(.*?)```", text_of(ROOT / "CONTRIBUTING.md"), flags=re.DOTALL)
    exec(code, {"__name__": __name__})
    images = torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 3, 8, 8)
    from puregen_transforms.detection.registry import detect

    assert detect("brightest", images, device="cpu").rows == [99]

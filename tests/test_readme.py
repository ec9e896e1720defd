"""Every Python block of the README runs, in order, as written."""

import re
from pathlib import Path

import PIL.Image
import pytest
from datasets import Dataset
from record_quality import with_tables
from typer.main import get_command
from typer.testing import CliRunner

from puregen_transforms.cli.main import app

README = Path(__file__).parents[1] / "README.md"


def test_readme_examples(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    pictures = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images[:12]]
    for index, picture in enumerate(pictures):
        folder = tmp_path / "my_images" / f"class{index % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{index}.png")
    Dataset.from_dict({"image": pictures, "label": [0, 1] * 6}).to_parquet("my_images.parquet")

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["image"].shape == (3, 32, 32)
    assert names["label"] == 0
    assert names["purified"].features == names["dataset"].features
    assert names["energies"].shape == (8,)
    assert names["repaired"].features == names["dataset"].features
    assert len(names["kept"]) == 12


def test_readme_tables_are_those_of_the_records():
    text = README.read_text(encoding="utf-8")
    assert with_tables(text) == text


def test_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


@pytest.mark.parametrize("name", sorted(get_command(app).commands))
def test_every_command_is_described_and_explains_itself(name):
    assert f"puregen {name}" in README.read_text(encoding="utf-8")
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output

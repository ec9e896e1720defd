import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.hub.cards import fill_card, load_record, write_card
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_DDPM, DEFAULT_EBM
from puregen_transforms.hub.checkpoints import find_checkpoint

ROOT = Path(__file__).parents[2]


DEFAULTS = (DEFAULT_EBM, DEFAULT_DDPM)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_committed_card_is_what_the_record_says(name, tmp_path):
    folder = ROOT / "hub_cards" / name
    for picture in folder.glob("*.png"):
        (tmp_path / picture.name).touch()
    write_card(name, tmp_path / "README.md")
    committed = (folder / "README.md").read_text(encoding="utf-8")
    assert committed == (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "](training.png)" in committed
    assert (folder / "training.png").exists()


@pytest.mark.parametrize(("name", "most"), [(DEFAULT_EBM, 6_000_000), (DEFAULT_DDPM, 16_000_000)])
def test_the_record_belongs_to_the_weights(name, most):
    record, entry = load_record(name), CATALOGUE[name]
    assert record["weights_sha256"] == entry.sha256
    assert find_checkpoint(name, kinds=[entry.kind]).weights.stat().st_size == record["weights_bytes"] <= most


@pytest.mark.parametrize("name", DEFAULTS)
def test_card_metadata_is_valid(name):
    card = ModelCard(fill_card(load_record(name)))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "puregen-transforms"
    assert "{{" not in str(card)
    assert not re.search(r"\bNone\b|Undefined", str(card))


@pytest.mark.parametrize("name", DEFAULTS)
def test_card_command(tmp_path, name):
    result = CliRunner().invoke(app, ["hub", "card", name, "--output", str(tmp_path / "README.md")])
    assert result.exit_code == 0, result.output
    assert name in (tmp_path / "README.md").read_text()
    assert CliRunner().invoke(app, ["hub", "card", "nonsense"]).exit_code == 1


def test_the_card_of_a_network_that_learned_few_images_says_so():
    record = load_record(DEFAULT_DDPM)
    settings = {**record["training"]["settings"], "sparse": 0.04, "copies": 4}
    card = fill_card({**record, "training": {**record["training"], "settings": settings}})
    assert "a share of 0.04 was learned, drawn at random. Each image was there 5 times." in card
    assert "times." not in fill_card(record)

import re
from pathlib import Path

from huggingface_hub import ModelCard
from typer.testing import CliRunner

from puregen_transforms.cli.main import app
from puregen_transforms.hub.cards import fill_card, load_record
from puregen_transforms.hub.catalogue import CATALOGUE, DEFAULT_EBM

ROOT = Path(__file__).parents[2]


def test_the_committed_card_is_what_the_record_says():
    folder = ROOT / "hub_cards" / DEFAULT_EBM
    pictures = {"grid": "before_and_after.png", "curves": "training.png"}
    assert all((folder / name).exists() for name in pictures.values())
    assert (folder / "README.md").read_text(encoding="utf-8") == fill_card(load_record(DEFAULT_EBM), pictures=pictures)


def test_the_record_belongs_to_the_weights():
    record = load_record(DEFAULT_EBM)
    assert record["weights_sha256"] == CATALOGUE[DEFAULT_EBM].sha256
    assert record["evaluation"]["weights_sha256"] == record["weights_sha256"]
    assert (CATALOGUE[DEFAULT_EBM].folder / "model.safetensors").stat().st_size <= 6_000_000


def test_card_metadata_is_valid():
    card = ModelCard(fill_card(load_record(DEFAULT_EBM)))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "puregen-transforms"
    assert "{{" not in str(card)
    assert not re.search(r"\bNone\b|Undefined", str(card))


def test_card_command(tmp_path):
    result = CliRunner().invoke(app, ["hub", "card", DEFAULT_EBM, "--output", str(tmp_path / "README.md")])
    assert result.exit_code == 0, result.output
    assert DEFAULT_EBM in (tmp_path / "README.md").read_text()
    assert CliRunner().invoke(app, ["hub", "card", "nonsense"]).exit_code == 1

"""Model cards, filled from the record that is shipped with a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from puregen_transforms.hub.catalogue import CATALOGUE
from puregen_transforms.hub.publish import RECORD_FILE

_TEMPLATE = Path(__file__).with_name("card.md")
_RIVALS = ("puregen-ebm", "jpeg-50", "jpeg-25")


def load_record(name: str) -> dict[str, Any]:
    """The training and evaluation record of a packaged checkpoint.

    Raises:
        ValueError: no packaged checkpoint of this name.
    """
    packaged = sorted(entry.name for entry in CATALOGUE.values() if entry.packaged)
    if name not in packaged:
        raise ValueError(f"Expected a packaged checkpoint, one of {packaged}, but got {name!r}.")
    record: dict[str, Any] = json.loads((CATALOGUE[name].folder / RECORD_FILE).read_text(encoding="utf-8"))
    return record


def fill_card(record: Mapping[str, Any], *, pictures: Mapping[str, str] | None = None) -> str:
    """The model card of a record, every number of which comes from the record.

    Args:
        record: as `load_record` gives it.
        pictures: file names beside the card: "grid" (before and after) and "curves" (training).
    """
    pictures = pictures or {}

    def row(values: Mapping[str, float], pattern: str) -> str:
        return "".join(f" {pattern % values[name]} |" for name in _RIVALS)

    data = ModelCardData(
        license="apache-2.0",
        library_name="puregen-transforms",
        tags=["data-poisoning", "backdoor-defense", "energy-based-model", "image-purification"],
        pipeline_tag="image-to-image",
    )
    captions = {"grid": "Before and after", "curves": "Training curves"}
    shown = {key: f"![{text}]({pictures[key]})" if key in pictures else "" for key, text in captions.items()}
    card = ModelCard.from_template(data, template_path=str(_TEMPLATE), row=row, **shown, **record)
    return str(card).rstrip() + "\n"

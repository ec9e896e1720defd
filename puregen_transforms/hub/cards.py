"""Model cards, filled from the record that is shipped with a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from puregen_transforms._files import write_atomically
from puregen_transforms.hub.catalogue import CATALOGUE, KINDS
from puregen_transforms.hub.layout import RECORD_FILE

_TEMPLATES = {kind: Path(__file__).with_name(f"card_{kind}.md") for kind in KINDS}
_PICTURES = {"grid": "before_and_after.png", "curves": "training.png"}
_TAGS = {"ebm": ["energy-based-model"], "ddpm": ["diffusion", "ddpm"], "denoiser": ["denoising"]}


def load_record(name: str) -> dict[str, Any]:
    """Load the training and evaluation record of a packaged checkpoint.

    Raises:
        ValueError: no packaged checkpoint of this name.
    """
    packaged = sorted(entry.name for entry in CATALOGUE.values() if entry.packaged)
    if name not in packaged:
        raise ValueError(f"Expected a packaged checkpoint, one of {packaged}, but got {name!r}.")
    record: dict[str, Any] = json.loads((CATALOGUE[name].folder / RECORD_FILE).read_text(encoding="utf-8"))
    return record


def fill_card(record: Mapping[str, Any], *, pictures: Mapping[str, str] | None = None) -> str:
    """Fill the template of a model card, every number of which comes from the record.

    Args:
        record: as `load_record` gives it.
        pictures: file names beside the card: "grid" (before and after) and "curves" (training).
    """
    pictures = pictures or {}
    kind = record["kind"]
    data = ModelCardData(
        license="apache-2.0",
        library_name="puregen-transforms",
        tags=["data-poisoning", "backdoor-defense", *_TAGS[kind], "image-purification"],
        pipeline_tag="image-to-image",
    )
    captions = {"grid": "Before and after", "curves": "Training curves"}
    shown = {key: f"![{text}]({pictures[key]})" if key in pictures else "" for key, text in captions.items()}
    measured = _measured(record["quality"], kind) if "quality" in record else ""
    if "victims" in record:
        measured += "\n\n" + _victims(record["victims"])
    card = ModelCard.from_template(data, template_path=str(_TEMPLATES[kind]), measured=measured, **shown, **record)
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def write_card(name: str, path: Path) -> None:
    """Write the card of a packaged checkpoint, with the pictures that lie beside it."""
    pictures = {key: file for key, file in _PICTURES.items() if (path.parent / file).exists()}
    write_atomically(path, fill_card(load_record(name), pictures=pictures).encode())


def _measured(quality: Mapping[str, Any], kind: str) -> str:
    """Write the tables of the record of `benchmarks/purify_quality.py`."""
    parts = [
        "Images that were never seen in training, with the trigger that `puregen demo` shows (a universal perturbation "
        "optimized against a classifier). `left` is the share of the trigger that survives along its own direction; "
        f"lower is better. One seed ({quality['seed']}), {quality['machine']}, torch {quality['versions']['torch']}."
    ]
    for name, methods in quality["sets"].items():
        count = next(iter(methods.values()))["images"]
        lines = [
            f"**{name}**, {count} images",
            "",
            "| method | PSNR clean (dB) | left, ε 8 | left, ε 16 | images/s |",
            "|---|---|---|---|---|",
        ]
        for method, row in methods.items():
            left = (f"{row['attacks'][budget]['survival']:.2f}" for budget in ("8", "16"))
            speed = row["images_per_second"]
            lines.append(
                f"| {method} | {row['psnr_clean']:.1f} | {' | '.join(left)} | {speed:.{0 if speed > 99 else 1}f} |"
            )
        parts.append("\n".join(lines))
        if kind == "ebm":
            before = next(iter(methods.values()))["attacks"]
            found = " and ".join(f"{before[budget]['auroc_before']:.3f} at ε {budget}" for budget in ("8", "16"))
            parts.append(f"The energy alone separates poisoned from clean images with AUROC {found}.")
    parts.append(f"```\n{quality['command']}\n```")
    return "\n\n".join(parts)


def _victims(measured: Mapping[str, Any]) -> str:
    """Write the table of the record of `benchmarks/narcissus.py`."""
    lines = [
        "Classifiers trained on a set that was attacked with Narcissus triggers, after each defense. Success is the "
        "mean over target classes (in parentheses the worst) of the share of other test images that are called the "
        f"target class once they carry the trigger. {measured['images']}; {measured['machine']}.",
        "",
        "| defense | attack | accuracy | success (worst) | success, never poisoned |",
        "|---|---|---|---|---|",
    ]
    for row in measured["rows"]:
        success = "– | –"
        if row["success"] is not None:
            success = f"{row['success']:.1%} ({row['worst']:.1%}) | {row['floor']:.1%}"
        lines.append(f"| {row['defense']} | {row['attack']} | {row['accuracy']:.1%} | {success} |")
    return "\n".join([*lines, "", f"```\n{measured['command']}\n```"])

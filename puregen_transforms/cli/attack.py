"""`puregen attack`: craft a poison, to test defenses with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.data_options import Column, Convert
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.options import DATA, RUNNING
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.settings import parse_settings
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from puregen_transforms.data.image_set import ImageSet

ATTACK, ATTACKER = "Settings of the attack", "What the attacker has"
"""Panels of options."""


def attack(
    name: Annotated[str, typer.Argument(help="Attack, such as badnets; `puregen attack list` shows all.")],
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Training set: a folder of images by class, Parquet, or a name.")
    ] = "",
    destination: Annotated[
        Path | None, typer.Argument(metavar="DST", help="A new folder for the poison. Nothing is overwritten.")
    ] = None,
    preset: Annotated[
        Literal["smoke", "cpu", "paper"],
        typer.Option(
            help="Settings to start from. smoke: seconds, to see it run; cpu: for 2 cores; paper: as published, for a "
            "GPU where the attack trains networks.",
            rich_help_panel=ATTACK,
        ),
    ] = "cpu",
    target_class: Annotated[
        str | None,
        typer.Option(help="Class that images are to be misread as: name or number.", rich_help_panel=ATTACK),
    ] = None,
    source_class: Annotated[
        str | None,
        typer.Option(
            help="Class whose images are to be misread, for attacks on one class or image: name or number.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Poisoned images, as a share of the training set.", rich_help_panel=ATTACK)
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Largest change of a pixel, in units of 1/255.", rich_help_panel=ATTACK)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Another setting, its value as JSON; repeatable.",
            rich_help_panel=ATTACK,
        ),
    ] = None,
    public: Annotated[
        str | None,
        typer.Option(
            help="Images besides the training set, for attacks that train on such: a folder, Parquet, or a name.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Images outside the training set, for triggerless attacks, which aim at one of them; default: the "
            "split `test` of SRC.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    energy: Annotated[
        str | None,
        typer.Option(
            help="Energy network of the defense, for an attacker who knows it: a name, owner/name, owner/name@revision "
            "or a folder.",
            rich_help_panel=ATTACKER,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of SRC to poison.", rich_help_panel=DATA)] = "train",
    column: Column = None,
    label_column: Annotated[str, typer.Option(help="Column of classes.", rich_help_panel=DATA)] = "label",
    size: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="Resize images, the shorter side to this many pixels, and crop their center; needed where they are "
            "of several sizes.",
            rich_help_panel=DATA,
        ),
    ] = None,
    convert: Convert = False,
    seed: Annotated[
        int,
        typer.Option(help="Seed of all that is random; the same seed gives the same poison.", rich_help_panel=RUNNING),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, mps ...; default: a GPU if there is one.", rich_help_panel=RUNNING),
    ] = None,
    poisoned_set: Annotated[
        Path | None,
        typer.Option(
            help="Write the whole poisoned set, too: a new .parquet file, or a new folder of images by class.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    keep_names: Annotated[
        bool,
        typer.Option(
            "--keep-names",
            help="Give the images of a poisoned folder the names that they have in SRC, with .png, rather than "
            "numbers. A name may tell that an image has come from another class.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
) -> None:
    """Craft a poison for a training set, and save it as a record that can be applied to the set.

    DST gets `poison.safetensors`, `poison.json` and a picture. For your own data, to learn what a defense is worth.
    """
    with explain_errors():
        if name == "list":
            _list()
            return
        if not source or destination is None:
            raise ValueError("Expected a training set and a folder for the poison: puregen attack NAME SRC DST.")
        for images in filter(None, (source, public, targets)):
            check_path(images)
        from puregen_transforms.attacks import Attacker
        from puregen_transforms.attacks.poisoned_set import write_folder, write_parquet
        from puregen_transforms.attacks.registry import find_attack
        from puregen_transforms.data.atomic import check_free
        from puregen_transforms.data.columns import choose_image_columns
        from puregen_transforms.data.image_set import ImageSet
        from puregen_transforms.data.pictures import Pictures
        from puregen_transforms.data.sources import split_of
        from puregen_transforms.purifier.device import choose_device

        named = {"target_class": target_class, "source_class": source_class, "rate": rate, "epsilon": epsilon}
        settings = {key: value for key, value in named.items() if value is not None} | parse_settings(setting or [])
        found = find_attack(name)
        config = found.config.preset(preset, **settings)
        check_free(destination, folder=True)
        if poisoned_set is not None:
            if poisoned_set.suffix not in (".parquet", ""):
                raise ValueError(f"Expected a .parquet file or a folder for the poisoned set, but got {poisoned_set}.")
            check_free(poisoned_set, folder=not poisoned_set.suffix)
        if keep_names and (poisoned_set is None or poisoned_set.suffix):
            raise ValueError("Expected --keep-names with a folder as --poisoned-set, but got none.")
        dataset = ImageSet.load(source, split=split, label=label_column, column=column, size=size, convert=convert)
        place = choose_device(device)
        aimed_at = None
        if "targets" in found.needs:
            aimed_at = _targets(source, targets, label_column, column, size=size, convert=convert)
        given = {
            "public": ImageSet.load(public, size=size, convert=convert) if public else None,
            "targets": aimed_at and aimed_at.with_classes(dataset.class_names, what="set of targets"),
            "energy": _energy(energy, place) if energy else None,
        }
        console = PlainConsole()
        with shown_progress(console) as progress:
            attacker = Attacker(seed=seed, given=given, device=place, progress=progress)
            poison = found.craft(dataset, config, attacker)
        poison.save(destination)
        console.print(f"{poison} saved in {destination}.")
        if has_extra("matplotlib"):
            from puregen_transforms.evaluate.plots import draw_poison

            draw_poison(destination / "poison.png", poison, dataset.images[poison.ids])
            console.print(f"Look at {destination / 'poison.png'}.")
        if poisoned_set is not None:
            rows = split_of(source, split)
            (image,) = choose_image_columns(rows.features, column and [column])
            if poisoned_set.suffix:
                write_parquet(poison, dataset, rows, poisoned_set, image=image, label=label_column)
            else:
                pictures = Pictures(rows, image)
                names = [pictures.name_of(row) for row in range(len(rows))] if keep_names else None
                write_folder(poison, dataset, poisoned_set, names=names)
            console.print(f"The poisoned set is {poisoned_set}.")


def _targets(source: str, targets: str | None, label: str, column: str | None, **options: Any) -> ImageSet | None:
    """Read the split `test` of the source; or of a source that was named for it, whose only split may have any name."""
    from puregen_transforms.data.image_set import ImageSet
    from puregen_transforms.data.sources import open_source

    splits = sorted(open_source(targets or source))
    if targets is None:
        if "test" not in splits:
            return None
        return ImageSet.load(source, split="test", label=label, column=column, **options)
    if "test" not in splits and len(splits) > 1:
        raise ValueError(f"Expected a split `test` of {targets!r}, but it has {', '.join(splits)}.")
    return ImageSet.load(targets, split="test" if "test" in splits else splits[0], **options)


def _energy(checkpoint: str, device: torch.device) -> nn.Module:
    from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

    return load_ebm(resolve_ebm(checkpoint)).to(device)


def _list() -> None:
    """Print a table of all attacks."""
    from puregen_transforms.attacks import ATTACKS
    from puregen_transforms.attacks.attack import NEEDS
    from puregen_transforms.attacks.config import OF_ALL

    table = Table(title="Attacks")
    for heading in ("name", "labels", "needs besides the training set", "what it does", "settings, as published"):
        table.add_column(heading)
    for name, attack in ATTACKS.items():
        words = {"energy": "--energy if it knows the defense"}
        needs = ", ".join(words.get(need, f"--{need}") for need in NEEDS if need in attack.needs)
        own = {key: value for key, value in asdict(attack.config()).items() if key not in OF_ALL}
        settings = ", ".join(f"{key}={value!r}" for key, value in own.items())
        labels = "labels alone" if attack.labels_only else "clean-label" if attack.clean_label else "dirty-label"
        table.add_row(name, labels, needs or "–", attack.summary, settings)
    console = PlainConsole()
    console.print(table)
    console.print(
        "clean-label: every label stays true; dirty-label: poisoned images get the target class as their label; "
        "labels alone: no image is changed.\n"
        "--public: images besides the training set; --targets: images outside of it, one of which is to be misread; "
        "--energy: the energy network of the defense.\n"
        "Of any attack: --set reencode=75 compresses poisoned images as JPEG of that quality; --set jitter=2 moves the "
        "trigger of each by up to so many pixels, where it is put on at one place.",
    )

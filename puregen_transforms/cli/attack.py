"""`puregen attack`: craft a poison, to test defenses with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from puregen_transforms.attacks.poison import Poison
    from puregen_transforms.data.image_set import ImageSet


def attack(
    name: Annotated[str, typer.Argument(help="badnets, blended, ...; `list` shows all.")],
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="The training set: a folder of images by class, Parquet, or a name.")
    ] = "",
    destination: Annotated[
        Path | None, typer.Argument(metavar="DST", help="A new folder for the poison. Nothing is overwritten.")
    ] = None,
    preset: Annotated[str, typer.Option(help="paper: as published; cpu: for 2 cores; smoke: seconds.")] = "paper",
    target_class: Annotated[str | None, typer.Option(help="Name or number of the class to be called.")] = None,
    source_class: Annotated[str | None, typer.Option(help="The class attacked, for attacks on one class.")] = None,
    rate: Annotated[float | None, typer.Option(help="Poisoned images, as a share of the set.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Largest change of a pixel, in units of 1/255.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, as JSON; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random; the same seed gives the same poison.")] = 0,
    split: Annotated[str, typer.Option(help="Split of the training set.")] = "train",
    public: Annotated[
        str | None,
        typer.Option(help="Other images that the attacker has, for attacks that learn from such; in the forms of SRC."),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Images outside the set, for attacks that aim at one; default: the split `test` of SRC."),
    ] = None,
    energy: Annotated[
        str | None, typer.Option(help="Checkpoint of the energy network, for attackers who know the defense.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...; default: a GPU if there is one.")
    ] = None,
    poisoned_set: Annotated[
        Path | None, typer.Option(help="Also write the whole poisoned set: a new .parquet file.")
    ] = None,
) -> None:
    """Craft a poison for a data set, and save it as a record that can be applied to the set.

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
        named = {"target_class": target_class, "source_class": source_class, "rate": rate, "epsilon": epsilon}
        settings = {key: value for key, value in named.items() if value is not None} | _settings(setting or [])
        _attack(
            name, source, destination, preset, settings, seed, split, (public, targets, energy), device, poisoned_set
        )


def _attack(
    name: str,
    source: str,
    destination: Path,
    preset: str,
    settings: dict[str, Any],
    seed: int,
    split: str,
    helps: tuple[str | None, str | None, str | None],
    device: str | None,
    poisoned_set: Path | None,
) -> None:
    from puregen_transforms.attacks.registry import find_attack
    from puregen_transforms.data.atomic import check_free, complete_or_absent
    from puregen_transforms.data.image_set import ImageSet
    from puregen_transforms.data.sources import image_columns, open_source
    from puregen_transforms.purifier.device import choose_device

    found = find_attack(name)
    config = found.config.preset(preset, **settings)
    check_free(destination, folder=True)
    if poisoned_set is not None:
        if poisoned_set.suffix != ".parquet":
            raise ValueError(f"Expected a .parquet file for the poisoned set, but got {poisoned_set}.")
        check_free(poisoned_set, folder=False)
    dataset, place = ImageSet.of(source, split=split), choose_device(device)
    public, targets, energy = helps
    console = Console()
    with shown_progress(console) as progress:
        poison = found.craft(
            dataset,
            config,
            seed=seed,
            public=ImageSet.of(public) if public else None,
            targets=_targets(source, targets) if found.takes("targets") else None,
            energy=_energy(energy, place) if energy else None,
            device=place,
            progress=progress,
        )
    poison.save(destination)
    console.print(f"{poison} saved in [bold]{destination}[/].")
    if has_extra("matplotlib"):
        _draw(destination / "poison.png", dataset, poison)
        console.print(f"Look at [bold]{destination / 'poison.png'}[/].")
    if poisoned_set is not None:
        rows = open_source(source)[split]
        poisoned = poison.apply(rows, image=image_columns(rows)[0])
        with complete_or_absent(poisoned_set, folder=False) as temporary:
            poisoned.to_parquet(temporary)
        console.print(f"The poisoned set is [bold]{poisoned_set}[/].")


def _targets(source: str, targets: str | None) -> ImageSet | None:
    """The split `test`; of a source that was named for it, else its only split."""
    from puregen_transforms.data.image_set import ImageSet
    from puregen_transforms.data.sources import open_source

    splits = sorted(open_source(targets or source))
    if "test" in splits:
        return ImageSet.of(targets or source, split="test")
    if targets is None:
        return None
    if len(splits) > 1:
        raise ValueError(f"Expected a split `test` of {targets!r}, but it has {', '.join(splits)}.")
    return ImageSet.of(targets, split=splits[0])


def _energy(checkpoint: str, device: torch.device) -> nn.Module:
    from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

    return load_ebm(resolve_ebm(checkpoint)).to(device)


def _draw(path: Path, dataset: ImageSet, poison: Poison) -> None:
    from puregen_transforms.evaluate.plots import draw_poison

    draw_poison(path, poison, dataset.images[poison.ids])


def _list() -> None:
    from puregen_transforms.attacks.registry import ATTACKS

    table = Table(title="Attacks")
    table.add_column("name")
    table.add_column("what it does")
    table.add_column("settings, as published")
    for name, attack in ATTACKS.items():
        published = ", ".join(f"{key}={value!r}" for key, value in attack.config().to_dict().items())
        table.add_row(name, attack.summary, published)
    Console().print(table)


def _settings(given: list[str]) -> dict[str, Any]:
    settings = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected a setting NAME=VALUE, but got {text!r}.")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
        if isinstance(settings[name], list):
            settings[name] = tuple(settings[name])
    return settings

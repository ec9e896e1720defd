"""`puregen train`: train a generator on your own images."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from puregen_transforms.cli.errors import explain_errors

if TYPE_CHECKING:
    from puregen_transforms.train.ebm import EBMTrainer

app = typer.Typer(no_args_is_help=True, help="Train a generator on your own images.")


@app.callback()
def train() -> None:
    """Train a generator on your own images."""


@app.command("ebm")
def train_ebm(
    source: Annotated[str, typer.Argument(help="Images: a folder, a Parquet file, or a dataset name.")],
    output: Annotated[Path, typer.Argument(help="Folder of the run; an unfinished run there is resumed.")],
    split: Annotated[str, typer.Option(help="Split of the source to train on.")] = "train",
    nf: Annotated[int, typer.Option(help="Channels of the network; the paper has 128.")] = 128,
    patch_size: Annotated[int, typer.Option(help="Pixel-unshuffle factor in front of the network.")] = 1,
    image_size: Annotated[int, typer.Option(help="Side in pixels; other images are fitted to it.")] = 32,
    updates: Annotated[int, typer.Option(help="Optimizer steps.")] = 150_000,
    batch_size: Annotated[int, typer.Option(help="Images, and chains, in an update.")] = 16,
    langevin_steps: Annotated[int, typer.Option(help="Chain length of an update.")] = 100,
    bank_size: Annotated[int, typer.Option(help="Persistent chains.")] = 10_000,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-4,
    rate_drops: Annotated[
        str, typer.Option(help="Where the rate falls: share of the run, colon, factor from there on; comma; ...")
    ] = "0.333:0.1,0.625:0.01,0.833:0.001",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    save_every: Annotated[int, typer.Option(help="Updates between two saved states.")] = 250,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; default: a GPU if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="Arithmetic of the chains: auto, float32, bfloat16, float16.")] = "auto",
) -> None:
    """Train the energy network by contrastive divergence (Algorithm 2 of the PureGen paper)."""
    with explain_errors():
        from puregen_transforms.data.sources import load_image_tensor
        from puregen_transforms.models.ebm import EBMConfig
        from puregen_transforms.purifier.device import choose_device, choose_dtype
        from puregen_transforms.train.ebm import EBMTrainer, EBMTraining

        milestones, factors = _parse_rate_drops(rate_drops)
        training = EBMTraining(
            updates=updates,
            batch_size=batch_size,
            langevin_steps=langevin_steps,
            bank_size=bank_size,
            learning_rate=learning_rate,
            milestones=milestones,
            rate_factors=factors,
            seed=seed,
        )
        network = EBMConfig(nf=nf, patch_size=patch_size, image_size=image_size)
        place = choose_device(device)
        arithmetic = choose_dtype(dtype, place)
        console = Console(stderr=True)
        console.print(f"Reading {source} …")
        images = load_image_tensor(source, split=split, image_size=image_size)
        console.print(f"{len(images):,} images; training on {place}, chains in {arithmetic}.")
        trainer = EBMTrainer(images, training, network, device=place, dtype=arithmetic)
        _run(console, trainer, output, save_every)
        console.print(f"Trained: [bold]{output}[/] (config.json, model.safetensors).")


def _parse_rate_drops(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        drops = [drop.split(":") for drop in text.split(",") if drop]
        pairs = [(float(share), float(factor)) for share, factor in drops]
    except ValueError as error:
        raise ValueError(f"Expected --rate-drops like 0.5:0.3,0.8:0.1, but got {text!r}.") from error
    return tuple(share for share, _ in pairs), tuple(factor for _, factor in pairs)


def _run(console: Console, trainer: EBMTrainer, output: Path, save_every: int) -> None:
    from puregen_transforms.train.run import run_ebm_training

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    command = shlex.join(["puregen", *sys.argv[1:]])
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=trainer.training.updates)
        for s in run_ebm_training(trainer, output, save_every=save_every, command=command):
            live = (
                f"energy: data {s.positive_energy:.1f}, chains {s.negative_energy:.1f}; "
                f"chain move {s.chain_distance:.3f}; gradient {s.gradient_norm:.0f}"
            )
            progress.update(task, completed=s.update, description=live)

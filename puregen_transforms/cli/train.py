"""`puregen train`: train a generator on your own images, or a classifier on images that may be poisoned."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.options import DATA, METHOD, NETWORKS, RUNNING, changed, options_of
from puregen_transforms.cli.output import PlainConsole
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.cli.train_vab import train_vab
from puregen_transforms.data.local import check_path
from puregen_transforms.models.config import DenoiserConfig, EBMConfig, UNetConfig
from puregen_transforms.purifier.puregen_config import DType
from puregen_transforms.train.config import (
    DDPM_PRESETS,
    DENOISER_PRESETS,
    EBM_PRESETS,
    DDPMTraining,
    DenoiserTraining,
    EBMTraining,
    Preset,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from puregen_transforms.train.trainer import Trainer

app = typer.Typer(
    no_args_is_help=True,
    help="Train a generator on your own images, or a classifier on images that may be poisoned.",
)
app.command("vab")(train_vab)

PANELS = {
    "EBMTraining": METHOD,
    "DDPMTraining": METHOD,
    "DenoiserTraining": METHOD,
    "EBMConfig": NETWORKS,
    "UNetConfig": NETWORKS,
    "DenoiserConfig": NETWORKS,
    "image_size": DATA,
    "sparse": DATA,
    "copies": DATA,
    "seed": RUNNING,
}

SourceArgument = Annotated[
    str, typer.Argument(metavar="SRC", help="Images: a folder, a Parquet file, or a dataset name.")
]
OutputArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder of the run; an unfinished run there is resumed.")
]
PresetOption = Annotated[
    Preset,
    typer.Option(
        help="Defaults of the other options: paper, as published; cpu, as a packaged network was trained, in an hour "
        "and a half on 2 cores.",
        rich_help_panel=METHOD,
    ),
]
InitialOption = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint to start from: a catalogue name, owner/name, owner/name@revision or a folder; default: fresh "
        "weights.",
        rich_help_panel=NETWORKS,
    ),
]
SplitOption = Annotated[str, typer.Option(help="Split of the images to train on.", rich_help_panel=DATA)]
ColumnOption = Annotated[
    str | None, typer.Option(help="Column of images; default: the only one.", rich_help_panel=DATA)
]
SaveEveryOption = Annotated[int, typer.Option(help="Updates between two saved states.", rich_help_panel=RUNNING)]
CpuOption = Annotated[
    bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.", rich_help_panel=RUNNING)
]


def _rate_drops(training: EBMTraining) -> str:
    pairs = zip(training.milestones, training.rate_factors, strict=True)
    return ",".join(f"{share:.3g}:{factor:g}" for share, factor in pairs)


@app.callback()
def train() -> None:
    """Train a generator on your own images, or a classifier on images that may be poisoned.

    Generators in several processes, on one machine or more:
    `torchrun --nproc_per_node 2 -m puregen_transforms train ...`.
    """


@app.command("ebm")
@options_of(
    EBMConfig,
    EBMTraining,
    panels=PANELS,
    presets=EBM_PRESETS,
    without=("step_size", "temperature", "data_noise", "milestones", "rate_factors"),
)
def train_ebm(
    source: SourceArgument,
    output: OutputArgument,
    preset: PresetOption = "paper",
    rate_drops: Annotated[
        str | None,
        typer.Option(
            help="Where the learning rate falls: a share of the run, a colon and the factor from there on, with commas "
            "between.",
            show_default="; ".join(f"{name}: {_rate_drops(training)}" for name, (_, training) in EBM_PRESETS.items()),
            rich_help_panel=METHOD,
        ),
    ] = None,
    initial: InitialOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    save_every: SaveEveryOption = 250,
    cpu: CpuOption = False,
    dtype: Annotated[DType, typer.Option(help="Arithmetic of the Langevin chains.", rich_help_panel=RUNNING)] = "auto",
    **settings: Any,
) -> None:
    """Train the energy network by contrastive divergence (Algorithm 2 of the PureGen paper)."""
    with explain_errors():
        check_path(source)
        from accelerate import Accelerator

        from puregen_transforms.purifier.device import choose_dtype
        from puregen_transforms.train.ebm import EBMTrainer

        network, training = EBM_PRESETS[preset]
        network, training = changed(network, settings), changed(training, settings)
        if rate_drops is not None:
            training = changed(training, _parse_rate_drops(rate_drops))
        accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        chains = choose_dtype(dtype, accelerator.device)
        start = None if initial is None else _load_initial_ebm(initial, network)
        images = _read_images(source, split=split, column=column, image_size=network.image_size)
        trainer = EBMTrainer(images, training, network, accelerator, dtype=chains)
        _train(trainer, output, start=start, save_every=save_every, precision=chains)


@app.command("ddpm")
@options_of(UNetConfig, DDPMTraining, panels=PANELS, presets=DDPM_PRESETS, without=("largest_gradient",))
def train_ddpm(
    source: SourceArgument,
    output: OutputArgument,
    preset: PresetOption = "paper",
    initial: InitialOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    save_every: SaveEveryOption = 250,
    cpu: CpuOption = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Arithmetic of the network.", rich_help_panel=RUNNING),
    ] = "auto",
    **settings: Any,
) -> None:
    """Train the noise predictor on the first diffusion steps (section 3.3 of the PureGen paper)."""
    with explain_errors():
        check_path(source)
        import torch
        from accelerate import Accelerator

        from puregen_transforms.purifier.device import choose_device, choose_dtype
        from puregen_transforms.train.ddpm import DDPMTrainer

        network, training = DDPM_PRESETS[preset]
        network, training = changed(network, settings), changed(training, settings)
        precision = choose_dtype(dtype, choose_device("cpu" if cpu else None))
        accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if precision == torch.bfloat16 else "no")
        start = None if initial is None else _load_initial_unet(initial, network)
        images = _read_images(source, split=split, column=column, image_size=network.image_size)
        labels = None if training.sparse is None else _read_labels(source, split=split, column=column)
        trainer = DDPMTrainer(images, training, network, accelerator, labels=labels)
        _train(trainer, output, start=start, save_every=save_every, precision=precision)


@app.command("denoiser")
@options_of(DenoiserConfig, DenoiserTraining, panels=PANELS, presets=DENOISER_PRESETS, without=("largest_gradient",))
def train_denoiser(
    source: SourceArgument,
    output: OutputArgument,
    preset: PresetOption = "paper",
    more: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC", help="Further images, of another size or kind; repeat it.", rich_help_panel=DATA),
    ] = None,
    initial: InitialOption = None,
    split: SplitOption = "train",
    column: ColumnOption = None,
    save_every: SaveEveryOption = 250,
    cpu: CpuOption = False,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Arithmetic of the network.", rich_help_panel=RUNNING),
    ] = "auto",
    **settings: Any,
) -> None:
    """Train the network of the method `onestep`, which takes noise off images of any size in one call.

    Each set gives as many updates as any other, whatever its size: patches of small images, and patches of large ones
    at several scales. No paper has this network: the preset paper is as large as that of DRUNet. Weights to start from
    may be of a network with fewer blocks.
    """
    with explain_errors():
        sources = [source, *(more or [])]
        for one in sources:
            check_path(one)
        import torch
        from accelerate import Accelerator

        from puregen_transforms.purifier.device import choose_device, choose_dtype
        from puregen_transforms.train.denoiser import DenoiserTrainer

        network, training = DENOISER_PRESETS[preset]
        network, training = changed(network, settings), changed(training, settings)
        precision = choose_dtype(dtype, choose_device("cpu" if cpu else None))
        accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if precision == torch.bfloat16 else "no")
        start = None if initial is None else _load_initial_denoiser(initial, network)
        sets = [_read_sizes(one, split=split, column=column) for one in sources]
        trainer = DenoiserTrainer(sets, training, network, accelerator)
        _train(trainer, output, start=start, save_every=save_every, precision=precision)


def _load_initial_ebm(reference: str, network: EBMConfig) -> tuple[Mapping[str, Tensor], str]:
    from puregen_transforms.hub.ebm import load_ebm, resolve_ebm

    checkpoint = resolve_ebm(reference)
    if checkpoint.config != network:
        raise ValueError(f"Expected a network like {reference}'s, {checkpoint.config}, but {network} was asked for.")
    return load_ebm(checkpoint).state_dict(), f"{reference} (sha256 {checkpoint.sha256})"


def _load_initial_unet(reference: str, network: UNetConfig) -> tuple[Mapping[str, Tensor], str]:
    from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm

    checkpoint = resolve_ddpm(reference)
    asked = network.to_diffusers()
    found = {name: checkpoint.config.get(name) for name in asked}
    if differing := [f"{name} is {found[name]}, not {asked[name]}" for name in asked if found[name] != asked[name]]:
        raise ValueError(f"Expected a network like {reference}'s, where {'; '.join(differing)}.")
    return load_unet(checkpoint).state_dict(), f"{reference} (sha256 {checkpoint.sha256})"


def _load_initial_denoiser(reference: str, network: DenoiserConfig) -> tuple[Mapping[str, Tensor], str]:
    from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
    from puregen_transforms.models.denoiser import deepened

    checkpoint = resolve_denoiser(reference)
    found = checkpoint.config
    if found.widths != network.widths or found.blocks > network.blocks:
        raise ValueError(
            f"Expected a network like {reference}'s, {found}, with as many blocks or more, but {network} was asked for."
        )
    model = deepened(load_denoiser(checkpoint), network.blocks)
    return model.state_dict(), f"{reference} (sha256 {checkpoint.sha256})"


def _parse_rate_drops(text: str) -> dict[str, tuple[float, ...]]:
    try:
        drops = [drop.split(":") for drop in text.split(",") if drop]
        pairs = [(float(share), float(factor)) for share, factor in drops]
    except ValueError as error:
        raise ValueError(f"Expected --rate-drops like 0.5:0.3,0.8:0.1, but got {text!r}.") from error
    return {"milestones": tuple(share for share, _ in pairs), "rate_factors": tuple(factor for _, factor in pairs)}


def _read_images(source: str, *, split: str, column: str | None, image_size: int) -> Tensor:
    from puregen_transforms.data.sources import load_image_tensor

    PlainConsole(stderr=True).print(f"Reading {source} …")
    return load_image_tensor(source, split=split, column=column, image_size=image_size)


def _read_sizes(source: str, *, split: str, column: str | None) -> list[Tensor]:
    """Read images as they are: (3, H, W) uint8 each."""
    import numpy as np
    import torch

    from puregen_transforms.data.sources import iterate_images

    PlainConsole(stderr=True).print(f"Reading {source} …")
    found = iterate_images(source, splits=[split], columns=[column] if column else [])
    return [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in found]


def _read_labels(source: str, *, split: str, column: str | None) -> Tensor | None:
    import torch

    from puregen_transforms.data.labelled_source import choose_source

    labels = choose_source(source, split, column, None).labels
    return None if labels is None else torch.tensor(labels)


def _train(
    trainer: Trainer[Any],
    output: Path,
    *,
    start: tuple[Mapping[str, Tensor], str] | None,
    save_every: int,
    precision: torch.dtype,
) -> None:
    from puregen_transforms.evaluate.plots import draw_training_curves
    from puregen_transforms.train.generator_run import read_log, run_training

    def draw(folder: Path) -> None:
        draw_training_curves(folder / "curves.png", read_log(folder))

    if start is not None:
        trainer.start_from(*start)
    accelerator = trainer.accelerator
    console = PlainConsole(stderr=True, quiet=not accelerator.is_main_process)
    processes = "" if accelerator.num_processes == 1 else f" in {accelerator.num_processes} processes"
    console.print(f"{len(trainer.images):,} images; training on {accelerator.device.type}{processes}, {precision}.")
    command = shlex.join(["puregen", *sys.argv[1:]])
    first = 0
    with shown_progress(console) as show:
        for statistics in run_training(
            trainer,
            output,
            save_every=save_every,
            command=command,
            draw_curves=draw if has_extra("matplotlib") else None,
        ):
            first = first or statistics.update
            show("training", statistics.update, trainer.updates, kept=first, note=str(statistics))
    console.print(f"Trained: {output}.")

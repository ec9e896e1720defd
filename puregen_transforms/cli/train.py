"""`puregen train`: train a generator on your own images."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.progress import shown_progress
from puregen_transforms.data.local import check_path

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from puregen_transforms.models.ebm import EBMConfig
    from puregen_transforms.models.unet import UNetConfig
    from puregen_transforms.train.trainer import Trainer

app = typer.Typer(no_args_is_help=True, help="Train a generator on your own images.")

SourceArgument = Annotated[str, typer.Argument(help="Images: a folder, a Parquet file, or a dataset name.")]
OutputArgument = Annotated[Path, typer.Argument(help="Folder of the run; an unfinished run there is resumed.")]
SplitOption = Annotated[str, typer.Option(help="Split of the source to train on.")]
ImageSizeOption = Annotated[int, typer.Option(help="Side in pixels; other images are fitted to it.")]
UpdatesOption = Annotated[int, typer.Option(help="Optimizer steps.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
SaveEveryOption = Annotated[int, typer.Option(help="Updates between two saved states.")]
CpuOption = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")]
InitialOption = Annotated[
    str | None,
    typer.Option(help="Checkpoint to start from (a name, owner/name[@revision], a folder); default: fresh weights."),
]
EmaOption = Annotated[float, typer.Option(help="Of the weight average that becomes the result; 0 keeps none.")]


@app.callback()
def train() -> None:
    """Train a generator on your own images.

    Several processes, on one machine or more: `torchrun --nproc_per_node 2 -m puregen_transforms train ...`.
    """


@app.command("ebm")
def train_ebm(
    source: SourceArgument,
    output: OutputArgument,
    split: SplitOption = "train",
    nf: Annotated[int, typer.Option(help="Channels of the network; the paper has 128.")] = 128,
    patch_size: Annotated[int, typer.Option(help="Pixel-unshuffle factor in front of the network.")] = 1,
    image_size: ImageSizeOption = 32,
    updates: UpdatesOption = 150_000,
    batch_size: Annotated[int, typer.Option(help="Images, and chains, in an update, over all processes.")] = 16,
    langevin_steps: Annotated[int, typer.Option(help="Chain length of an update.")] = 100,
    bank_size: Annotated[int, typer.Option(help="Persistent chains.")] = 10_000,
    rejuvenation: Annotated[
        float, typer.Option(help="Share of the chains that restart from data at each update; 1 polishes a network.")
    ] = 0.05,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-4,
    rate_drops: Annotated[
        str, typer.Option(help="Where the rate falls: share of the run, colon, factor from there on; comma; ...")
    ] = "0.333:0.1,0.625:0.01,0.833:0.001",
    ema_decay: EmaOption = 0.0,
    initial: InitialOption = None,
    seed: SeedOption = 0,
    save_every: SaveEveryOption = 250,
    cpu: CpuOption = False,
    dtype: Annotated[str, typer.Option(help="Arithmetic of the chains: auto, float32, bfloat16, float16.")] = "auto",
) -> None:
    """Train the energy network by contrastive divergence (Algorithm 2 of the PureGen paper)."""
    with explain_errors():
        check_path(source)
        from accelerate import Accelerator

        from puregen_transforms.models.ebm import EBMConfig
        from puregen_transforms.purifier.device import choose_dtype
        from puregen_transforms.train.ebm import EBMTrainer, EBMTraining

        milestones, factors = _parse_rate_drops(rate_drops)
        training = EBMTraining(
            updates=updates,
            batch_size=batch_size,
            langevin_steps=langevin_steps,
            bank_size=bank_size,
            rejuvenation=rejuvenation,
            learning_rate=learning_rate,
            milestones=milestones,
            rate_factors=factors,
            ema_decay=ema_decay,
            seed=seed,
        )
        network = EBMConfig(nf=nf, patch_size=patch_size, image_size=image_size)
        accelerator = Accelerator(cpu=cpu, mixed_precision="no")
        chains = choose_dtype(dtype, accelerator.device)

        start = None if initial is None else _load_initial_ebm(initial, network)

        def make_trainer(images: Tensor) -> Trainer:
            trainer = EBMTrainer(images, training, network, accelerator, dtype=chains)
            if start is not None:
                trainer.start_from(*start)
            return trainer

        _train(source, split, image_size, output, make_trainer, updates, save_every, precision=chains)


@app.command("ddpm")
def train_ddpm(
    source: SourceArgument,
    output: OutputArgument,
    split: SplitOption = "train",
    widths: Annotated[
        str, typer.Option(help="Channels of the UNet, from the finest resolution down; the default is the paper's.")
    ] = "128,128,256,256,512,512",
    layers: Annotated[int, typer.Option(help="Residual blocks at each resolution.")] = 2,
    attention: Annotated[str, typer.Option(help="Resolutions with self-attention, from 1 at the finest.")] = "5",
    groups: Annotated[int, typer.Option(help="Of the group normalisation.")] = 32,
    image_size: ImageSizeOption = 32,
    updates: UpdatesOption = 41_000,
    batch_size: Annotated[int, typer.Option(help="Images in an update, over all processes.")] = 256,
    trained_steps: Annotated[int, typer.Option(help="How many of the 1000 diffusion steps are trained.")] = 250,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its highest.")] = 1e-4,
    warmup: Annotated[int, typer.Option(help="Updates over which the rate rises; then it falls along a cosine.")] = 500,
    ema_decay: EmaOption = 0.999,
    initial: InitialOption = None,
    seed: SeedOption = 0,
    save_every: SaveEveryOption = 250,
    cpu: CpuOption = False,
    dtype: Annotated[str, typer.Option(help="Arithmetic of the network: auto, float32, bfloat16.")] = "auto",
) -> None:
    """Train the noise predictor on the first diffusion steps (section 3.3 of the PureGen paper)."""
    with explain_errors():
        check_path(source)
        import torch
        from accelerate import Accelerator

        from puregen_transforms.models.unet import UNetConfig
        from puregen_transforms.purifier.device import choose_device, choose_dtype
        from puregen_transforms.train.ddpm import DDPMTrainer, DDPMTraining

        training = DDPMTraining(
            updates=updates,
            batch_size=batch_size,
            trained_steps=trained_steps,
            learning_rate=learning_rate,
            warmup=warmup,
            ema_decay=ema_decay,
            seed=seed,
        )
        network = UNetConfig(
            widths=_parse_counts("widths", widths),
            layers=layers,
            attention=_parse_counts("attention", attention),
            groups=groups,
            image_size=image_size,
        )
        precision = choose_dtype(dtype, choose_device("cpu" if cpu else None))
        if precision == torch.float16:
            raise ValueError("Expected --dtype auto, float32 or bfloat16 for training, but got 'float16'.")
        accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if precision == torch.bfloat16 else "no")

        start = None if initial is None else _load_initial_unet(initial, network)

        def make_trainer(images: Tensor) -> Trainer:
            trainer = DDPMTrainer(images, training, network, accelerator)
            if start is not None:
                trainer.start_from(*start)
            return trainer

        _train(source, split, image_size, output, make_trainer, updates, save_every, precision=precision)


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


def _parse_rate_drops(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        drops = [drop.split(":") for drop in text.split(",") if drop]
        pairs = [(float(share), float(factor)) for share, factor in drops]
    except ValueError as error:
        raise ValueError(f"Expected --rate-drops like 0.5:0.3,0.8:0.1, but got {text!r}.") from error
    return tuple(share for share, _ in pairs), tuple(factor for _, factor in pairs)


def _parse_counts(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError as error:
        raise ValueError(f"Expected --{name} like 128,256, but got {text!r}.") from error


def _train(
    source: str,
    split: str,
    image_size: int,
    output: Path,
    make_trainer: Callable[[Tensor], Trainer],
    updates: int,
    save_every: int,
    *,
    precision: torch.dtype,
) -> None:
    from puregen_transforms.data.sources import load_image_tensor
    from puregen_transforms.evaluate.plots import draw_training_curves
    from puregen_transforms.train.run import read_log, run_training

    def draw(folder: Path) -> None:
        draw_training_curves(folder / "curves.png", read_log(folder))

    console = Console(stderr=True)
    console.print(f"Reading {source} …")
    images = load_image_tensor(source, split=split, image_size=image_size)
    trainer = make_trainer(images)
    accelerator = trainer.accelerator
    console.quiet = not accelerator.is_main_process
    processes = "" if accelerator.num_processes == 1 else f" in {accelerator.num_processes} processes"
    console.print(f"{len(images):,} images; training on {accelerator.device.type}{processes}, {precision}.")
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
            show("training", statistics.update, updates, kept=first, note=str(statistics))
    console.print(f"Trained: [bold]{output}[/].")

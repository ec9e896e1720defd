"""`puregen demo`: watch real poisoned images being repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from puregen_transforms._extras import has_extra
from puregen_transforms.cli.errors import explain_errors
from puregen_transforms.cli.output import PlainConsole

_BATCH = 8
"""Images repaired at once: few, so that the bar moves."""

if TYPE_CHECKING:
    from torch import Tensor

    from puregen_transforms import PureGen


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures and the numbers.")] = Path("puregen-demo"),
    images: Annotated[int, typer.Option(min=8, max=200, help="How many of the 200 packaged images to use.")] = 100,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Energy network: a name, owner/name, owner/name@revision or a folder; default: the one in the package."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Langevin steps; default: 150.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the noise: the same seed gives the same images.")] = 0,
) -> None:
    """Poison real images, repair them, and show both: numbers here, pictures in a folder."""
    with explain_errors():
        _demo(output, images, checkpoint, steps, seed)


def _demo(output: Path, count: int, checkpoint: str | None, steps: int | None, seed: int) -> None:
    from puregen_transforms import PureGen
    from puregen_transforms.data.demo import CLASSES, TARGET, load_demo
    from puregen_transforms.evaluate.metrics import auroc, psnr, survival

    console = PlainConsole()
    purify = PureGen(checkpoint=checkpoint, ebm_steps=steps, seed=seed)
    data = load_demo()
    clean, poisoned = data.images[:count], data.poisoned()[:count]
    console.print(
        f"{count} real images (CIFAR-10 test set) and the same {count} with a faint trigger: a "
        f"perturbation of at most 8/255, optimized to make classifiers see a {CLASSES[TARGET]}.\n"
        f"Repairing all {2 * count} with {purify} …"
    )
    output.mkdir(parents=True, exist_ok=True)
    purified_clean, purified_poisoned = _purify_with_progress(console, purify, clean, poisoned)
    energies = {"clean": purify.energy(clean), "poisoned": purify.energy(poisoned)}
    left = survival(clean, poisoned, purified_clean, purified_poisoned).mean().item()
    separation = auroc(energies["poisoned"], energies["clean"])
    record = {
        "images": count,
        "purifier": purify.to_dict(),
        "digest": purify.digest,
        "energy_mean": {name: values.mean().item() for name, values in energies.items()},
        "energy_auroc": separation,
        "psnr_poisoned": psnr(poisoned, clean).mean().item(),
        "psnr_purified_clean": psnr(purified_clean, clean).mean().item(),
        "psnr_purified_poisoned": psnr(purified_poisoned, clean).mean().item(),
        "trigger_left": left,
    }
    (output / "demo.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    console.print(_table(record))
    if not has_extra("matplotlib"):
        console.print('No pictures: install matplotlib with: pip install "puregen-transforms[report]"')
        return
    from puregen_transforms.evaluate.plots import draw_energy_histogram, draw_repair_grid

    draw_repair_grid(
        output / "before_and_after.png",
        clean=clean[:6],
        poisoned=poisoned[:6],
        purified=purified_poisoned[:6],
        trigger=data.trigger,
        left=(purified_poisoned.float() - purified_clean.float()).mean(0),
        share_left=left,
    )
    draw_energy_histogram(output / "energies.png", **energies, separation=separation)
    console.print(f"Look at {output / 'before_and_after.png'} and {output / 'energies.png'}.")


def _purify_with_progress(console: Console, purify: PureGen, *groups: Tensor) -> list[Tensor]:
    import torch

    from puregen_transforms.cli.progress import shown_progress

    results, done, total = [], 0, sum(map(len, groups))
    with shown_progress(console) as show:
        for group in groups:
            parts = []
            for batch in torch.split(group, _BATCH):
                show("repairing", done, total)
                parts.append(purify(batch))
                done += len(batch)
                show("repairing", done, total)
            results.append(torch.cat(parts))
    return results


def _table(record: dict[str, Any]) -> Table:
    table = Table(show_header=False, title="What happened")
    energy = record["energy_mean"]
    rows = [
        ("energy of clean images, mean", f"{energy['clean']:+.4f}", "lower is more natural"),
        ("energy of poisoned images, mean", f"{energy['poisoned']:+.4f}", ""),
        ("energy tells them apart (AUROC)", f"{record['energy_auroc']:.3f}", "1 is perfect, 0.5 is chance"),
        ("poisoned image against its original", f"{record['psnr_poisoned']:.1f} dB", "the attack is hard to see"),
        ("repaired clean image", f"{record['psnr_purified_clean']:.1f} dB", "PSNR: the price on clean images"),
        ("repaired poisoned image", f"{record['psnr_purified_poisoned']:.1f} dB", ""),
        ("trigger left after repair", f"{record['trigger_left']:.0%}", "along its own direction, mean"),
    ]
    for row in rows:
        table.add_row(*row)
    return table

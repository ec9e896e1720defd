"""Put a trained generator into the package: weights, config and record; pictures beside its model card.

    uv run python benchmarks/package_checkpoint.py RUN_FOLDER NAME --data "one sentence on the training data"

A DDPM and a denoiser are stored in half precision. What the packaged weights do is measured by `purify_quality.py`,
and put into the record by `record_quality.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from puregen_transforms import PureGen
from puregen_transforms._files import hash_file
from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.plots import draw_training_curves
from puregen_transforms.evaluate.records import write_record
from puregen_transforms.functional.images import to_signed
from puregen_transforms.hub.catalogue import PACKAGED_CHECKPOINTS
from puregen_transforms.hub.ddpm import load_unet, resolve_ddpm
from puregen_transforms.hub.denoiser import load_denoiser, resolve_denoiser
from puregen_transforms.hub.ebm import load_ebm, resolve_ebm
from puregen_transforms.models.denoiser_inference import FrozenDenoiser
from puregen_transforms.models.file_names import CONFIG_FILE, EBM_WEIGHTS_FILE
from puregen_transforms.models.saving import save_ddpm, save_denoiser
from puregen_transforms.models.unet_inference import FrozenUNet
from puregen_transforms.train.checkpoint import load_state
from puregen_transforms.train.generator_run import read_log

ROOT = Path(__file__).parents[1]


def training_record(run: Path, data: str, machine: str) -> dict[str, Any]:
    """Read how a run was made from its own files."""
    _, state = load_state(run)
    log = read_log(run)
    return {
        "data": data,
        "command": state["command"],
        "settings": state["training"],
        "seconds": round(state["seconds"]),
        "machine": machine,
        "torch": torch.__version__,
        "curve": [{k: round(v, 4) for k, v in row.items()} for row in log[:: max(1, len(log) // 200)]],
    }


def package_ebm(run: Path, folder: Path) -> dict[str, Any]:
    """Copy an energy network; returns its part of the record."""
    checkpoint = resolve_ebm(run)
    model = load_ebm(checkpoint)
    for name in (CONFIG_FILE, EBM_WEIGHTS_FILE):
        shutil.copyfile(run / name, folder / name)
    return {
        "kind": "ebm",
        "config": model.config.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_bytes": checkpoint.weights.stat().st_size,
        "weights_sha256": checkpoint.sha256,
        # Recomputed by the tests: the same file must go on giving the same energies.
        "demo_energies": PureGen(checkpoint=run).energy(load_demo().images[:8]).tolist(),
    }


def package_ddpm(run: Path, folder: Path) -> dict[str, Any]:
    """Store a diffusion network in half precision; returns its part of the record."""
    save_ddpm(load_unet(resolve_ddpm(run)), folder)
    checkpoint = resolve_ddpm(folder)
    unet = FrozenUNet(load_unet(checkpoint))
    return {
        "kind": "ddpm",
        "config": {k: v for k, v in checkpoint.config.items() if v is not None},
        "side_multiple": unet.side_multiple,
        "parameters": sum(p.numel() for p in unet.parameters()),
        "weights_bytes": checkpoint.weights.stat().st_size,
        "weights_sha256": hash_file(checkpoint.weights),
        # Recomputed by the tests: root mean square of the noise it sees in clean images.
        "demo_noise": demo_noise(unet),
    }


def package_denoiser(run: Path, folder: Path) -> dict[str, Any]:
    """Store a denoiser in half precision; returns its part of the record."""
    save_denoiser(load_denoiser(resolve_denoiser(run)), folder, dtype=torch.float16)
    checkpoint = resolve_denoiser(folder)
    model = load_denoiser(checkpoint)
    return {
        "kind": "denoiser",
        "config": model.config.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_bytes": checkpoint.weights.stat().st_size,
        "weights_sha256": checkpoint.sha256,
        # Recomputed by the tests: root mean square of what it takes off clean images.
        "demo_change": demo_change(FrozenDenoiser(model)),
    }


def demo_change(denoiser: FrozenDenoiser) -> list[float]:
    """Root mean square of what a denoiser takes off eight demo images for noise of 25/255."""
    images = to_signed(load_demo().images[:8])
    return (denoiser(images, 25 / 127.5) - images).square().mean((1, 2, 3)).sqrt().tolist()


def demo_noise(unet: FrozenUNet) -> list[float]:
    """Root mean square of the predicted noise in eight demo images, at timestep 50."""
    with torch.no_grad():
        predicted = unet(to_signed(load_demo().images[:8]), 50)
    return predicted.square().mean((1, 2, 3)).sqrt().tolist()


def main() -> None:
    """Check, copy, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `puregen train` finished")
    parser.add_argument("name", help="catalogue name")
    parser.add_argument("--data", required=True, help="what it was trained on, and what it never saw")
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores ({platform.machine()})")
    arguments = parser.parse_args()
    folder = PACKAGED_CHECKPOINTS / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    _, state = load_state(arguments.run)
    package = {"ebm": package_ebm, "ddpm": package_ddpm, "denoiser": package_denoiser}[state["kind"]]
    about = package(arguments.run, folder)
    training = training_record(arguments.run, arguments.data, arguments.machine)
    write_record(folder / "record.json", {"name": arguments.name, **about, "training": training})
    draw_training_curves(ROOT / "hub_cards" / arguments.name / "training.png", read_log(arguments.run))
    print(f'sha256="{about["weights_sha256"]}",')


if __name__ == "__main__":
    main()

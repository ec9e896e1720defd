"""Judge an EBM checkpoint on images it never saw.

    uv run python benchmarks/default_checkpoint.py CIFAR10_TEST_PARQUET [--checkpoint REF] [--images 500]

Contract: the first images of the CIFAR-10 test set (a public JPEG copy), clean and with the demo
trigger at eps 8/255 (and doubled, clipped at 16/255), purified with the published dynamics, 150
steps. Reported: AUROC of the energy, PSNR of purified clean and poisoned images against the
originals, and the share of the trigger that survives along its own direction, beside JPEG at
quality 25 and 50 on the same images. One seed; the residual chain noise is part of the result.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from puregen_transforms import PureGen, __version__
from puregen_transforms.data.demo import add_trigger, load_demo
from puregen_transforms.data.sources import load_image_tensor
from puregen_transforms.evaluate.metrics import auroc, psnr, survival

RESULTS = Path(__file__).parent / "results"


def jpeg(images: Tensor, quality: int) -> Tensor:
    """(N, 3, H, W) uint8 through PIL's JPEG encoder and back."""
    out = []
    for image in images.permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(PIL.Image.open(buffer))))
    return torch.stack(out).permute(0, 3, 1, 2)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", help="CIFAR-10 test set (Parquet)")
    parser.add_argument("--checkpoint", help="default: the packaged one")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "default_checkpoint.json")
    arguments = parser.parse_args()
    clean = load_image_tensor(arguments.test)[: arguments.images]
    purify = PureGen(
        checkpoint=arguments.checkpoint, ebm_steps=arguments.steps, dtype=arguments.dtype, seed=arguments.seed
    )
    methods = {"puregen-ebm": purify, "jpeg-50": lambda x: jpeg(x, 50), "jpeg-25": lambda x: jpeg(x, 25)}
    purify(clean[:1])  # loads the weights
    cleaned, seconds = {}, {}
    for name, method in methods.items():
        started = time.perf_counter()
        cleaned[name] = method(clean)
        seconds[name] = time.perf_counter() - started
    trigger = load_demo().trigger.int()
    record = {
        "benchmark": "default_checkpoint",
        "command": f"python benchmarks/default_checkpoint.py cifar10-jpeg-test.parquet --images {arguments.images} "
        f"--steps {arguments.steps} --dtype {arguments.dtype} --seed {arguments.seed}",
        "checkpoint": purify._checkpoint.reference,
        "weights_sha256": purify._checkpoint.sha256,
        "recipe": {**purify.to_dict(), "checkpoint": None},
        "images": len(clean),
        "images_per_second": {name: round(len(clean) / value, 2) for name, value in seconds.items()},
        "psnr_clean": {name: psnr(images, clean).mean().item() for name, images in cleaned.items()},
        "attacks": {},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {
            "puregen_transforms": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "seed": arguments.seed,
    }
    energies = purify.energy(clean)
    for budget in (8, 16):
        poisoned = add_trigger(clean, trigger * (budget // 8))
        attack: dict[str, object] = {
            "energy_auroc": auroc(purify.energy(poisoned), energies),
            "psnr_poisoned": psnr(poisoned, clean).mean().item(),
            "psnr_purified": {},
            "survival": {},
        }
        for name, method in methods.items():
            purified = method(poisoned)
            attack["psnr_purified"][name] = psnr(purified, clean).mean().item()  # type: ignore[index]
            attack["survival"][name] = survival(clean, poisoned, cleaned[name], purified).mean().item()  # type: ignore[index]
        record["attacks"][str(budget)] = attack
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()

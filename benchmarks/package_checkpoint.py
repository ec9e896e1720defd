"""Put a trained EBM into the package: weights, config and record; pictures beside its model card.

    uv run python benchmarks/package_checkpoint.py RUN_FOLDER NAME --data "one sentence on the training data"

Run `default_checkpoint.py --checkpoint RUN_FOLDER` first: its JSON becomes part of the record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from pathlib import Path

import torch

from puregen_transforms import PureGen
from puregen_transforms.data.demo import load_demo
from puregen_transforms.evaluate.plots import draw_training_curves
from puregen_transforms.hub.catalogue import PACKAGED_CHECKPOINTS
from puregen_transforms.hub.load import load_ebm, resolve_checkpoint
from puregen_transforms.train.checkpoint import load_state
from puregen_transforms.train.run import LOG_FILE

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Check, copy, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that `puregen train ebm` finished")
    parser.add_argument("name", help="catalogue name")
    parser.add_argument("--data", required=True, help="what it was trained on, and what it never saw")
    parser.add_argument("--machine", default=f"{os.cpu_count()} CPU cores ({platform.machine()})")
    parser.add_argument("--evaluation", type=Path, default=ROOT / "benchmarks/results/default_checkpoint.json")
    arguments = parser.parse_args()
    checkpoint = resolve_checkpoint(arguments.run)
    model = load_ebm(checkpoint)
    evaluation = json.loads(arguments.evaluation.read_text(encoding="utf-8"))
    if evaluation["weights_sha256"] != checkpoint.sha256:
        raise SystemExit(f"{arguments.evaluation} judges other weights. Run default_checkpoint.py on {arguments.run}.")
    evaluation["checkpoint"] = arguments.name
    _, state = load_state(arguments.run)
    log = [json.loads(line) for line in (arguments.run / LOG_FILE).read_text(encoding="utf-8").splitlines()]
    record = {
        "name": arguments.name,
        "config": model.config.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "weights_bytes": checkpoint.weights.stat().st_size,
        "weights_sha256": checkpoint.sha256,
        "training": {
            "data": arguments.data,
            "command": state["command"],
            "settings": state["training"],
            "seconds": round(state["seconds"]),
            "machine": arguments.machine,
            "torch": torch.__version__,
            "curve": [{k: round(v, 4) for k, v in row.items()} for row in log[:: max(1, len(log) // 200)]],
        },
        "evaluation": evaluation,
        # Recomputed by the tests: the same file must go on giving the same energies.
        "demo_energies": PureGen(checkpoint=arguments.run).energy(load_demo().images[:8]).tolist(),
    }
    folder = PACKAGED_CHECKPOINTS / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(arguments.run / name, folder / name)
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    arguments.evaluation.write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")
    draw_training_curves(ROOT / "hub_cards" / arguments.name / "training.png", log)
    print(f'sha256="{checkpoint.sha256}",')


if __name__ == "__main__":
    main()

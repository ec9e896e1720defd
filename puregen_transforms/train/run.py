"""A training run in a folder: log, curves, sample grids, and states to resume from."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import torch
from safetensors.torch import save
from torchvision.utils import make_grid

from puregen_transforms._files import write_atomically
from puregen_transforms.functional.images import to_uint8
from puregen_transforms.train.checkpoint import STATE_FILE, load_state, save_state
from puregen_transforms.train.ebm import EBMStatistics, EBMTrainer

LOG_FILE = "log.jsonl"


def run_ebm_training(
    trainer: EBMTrainer, folder: Path, *, save_every: int = 250, command: str = ""
) -> Iterator[EBMStatistics]:
    """Train to the end, yielding each update's statistics.

    The folder holds `log.jsonl` (a line per update), `samples.png` (data above, chains below),
    `state.safetensors` (for resuming), and at the end `model.safetensors` and `config.json` in
    the official layout. A run found in the folder is continued exactly where its last state was
    saved; a run with other settings is refused.

    Args:
        trainer: a fresh trainer.
        folder: made if it is not there.
        save_every: updates between two saved states.
        command: recorded beside the settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"training": trainer.training.to_dict(), "network": trainer.model.config.to_dict()}
    settings = json.loads(json.dumps(settings))
    seconds = 0.0
    if (folder / STATE_FILE).exists():
        state, record = load_state(folder)
        differing = {k: (record[k], settings[k]) for k in settings if record[k] != settings[k]}
        if differing:
            raise ValueError(
                f"{folder} holds a run with other settings (saved, asked for): {differing}. "
                "Use the same settings to resume it, or another folder."
            )
        trainer.restore(state, record["update"])
        seconds = record["seconds"]
    _truncate_log(folder / LOG_FILE, trainer.update)

    def keep() -> None:
        record = {**settings, "update": trainer.update, "seconds": seconds, "command": command}
        save_state(folder, trainer.state(), record)
        write_atomically(folder / "samples.png", _sample_grid(trainer))

    with (folder / LOG_FILE).open("a", encoding="utf-8") as log:
        while not trainer.done:
            started = time.perf_counter()
            statistics = trainer.step()
            seconds += time.perf_counter() - started
            log.write(json.dumps(vars(statistics)) + "\n")
            if trainer.update % save_every == 0 or trainer.done:
                # The log reaches the disk first: a state is never ahead of it.
                log.flush()
                os.fsync(log.fileno())
                keep()
            yield statistics
    weights = {k: v.detach().cpu().contiguous() for k, v in trainer.model.state_dict().items()}
    write_atomically(folder / "config.json", (json.dumps(settings["network"], indent=2) + "\n").encode())
    write_atomically(folder / "model.safetensors", save(weights, metadata={"format": "pt"}))


def _truncate_log(path: Path, update: int) -> None:
    """Drop lines that a killed run wrote after its last saved state."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:update]
        write_atomically(path, "".join(lines).encode())


def _sample_grid(trainer: EBMTrainer) -> bytes:
    count = min(16, trainer.training.bank_size, len(trainer.images))
    data = trainer.images[:count].float() / 127.5 - 1
    grid = make_grid(torch.cat([data, trainer.bank[:count]]), nrow=count, padding=2)
    pixels = to_uint8(grid).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(pixels)
    picture.resize((3 * picture.width, 3 * picture.height), PIL.Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()

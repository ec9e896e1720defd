"""A training run in a folder: log, curves, sample grids, and states to resume from."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision.utils import make_grid

from puregen_transforms._files import write_atomically
from puregen_transforms.functional.images import to_uint8
from puregen_transforms.train.checkpoint import STATE_FILE, load_state, save_state
from puregen_transforms.train.trainer import Statistics, Trainer

LOG_FILE = "log.jsonl"


def run_training(
    trainer: Trainer[Any],
    folder: Path,
    *,
    save_every: int = 250,
    command: str = "",
    draw_curves: Callable[[Path], object] | None = None,
) -> Iterator[Statistics]:
    """Train to the end, yielding each update's statistics.

    The folder holds `log.jsonl` (a line per update), `samples.png` (see the trainer's `samples`),
    `state.safetensors` (for resuming), and at the end the checkpoint in its official layout. A run
    found in the folder is continued exactly where its last state was saved; a run with other
    settings is refused. With several processes, only the first writes.

    Args:
        trainer: a fresh trainer.
        folder: made if it is not there.
        save_every: updates between two saved states.
        command: recorded beside the settings.
        draw_curves: called with the folder whenever a state has been saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(trainer.settings()))
    seconds = 0.0
    writes = trainer.accelerator.is_main_process
    if (folder / STATE_FILE).exists():
        state, record = load_state(folder)
        differing = {k: (record.get(k), settings[k]) for k in settings if record.get(k) != settings[k]}
        if differing:
            raise ValueError(
                f"{folder} holds a run with other settings (saved, asked for): {differing}. "
                "Use the same settings to resume it, or another folder."
            )
        trainer.restore(state, record["update"])
        seconds = record["seconds"]
    trainer.accelerator.wait_for_everyone()
    if writes:
        _truncate_log(folder / LOG_FILE, trainer.update)

    def keep() -> None:
        record = {**settings, "update": trainer.update, "seconds": seconds, "command": command}
        save_state(folder, trainer.state(), record)
        write_atomically(folder / "samples.png", _picture(trainer.samples()))
        if draw_curves is not None:
            draw_curves(folder)

    with (folder / LOG_FILE).open("a", encoding="utf-8") if writes else nullcontext() as log:
        while not trainer.done:
            started = time.perf_counter()
            statistics = trainer.step()
            seconds += time.perf_counter() - started
            if log is not None:
                log.write(json.dumps(vars(statistics)) + "\n")
                if trainer.update % save_every == 0 or trainer.done:
                    # The log reaches the disk first: a state is never ahead of it.
                    log.flush()
                    os.fsync(log.fileno())
                    keep()
            yield statistics
    if writes:
        trainer.export(folder)
    trainer.accelerator.wait_for_everyone()


def read_log(folder: Path) -> list[dict[str, float]]:
    """Read the statistics of every update of the run in a folder."""
    return [json.loads(line) for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines()]


def _truncate_log(path: Path, update: int) -> None:
    """Drop lines that a killed run wrote after its last saved state."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:update]
        write_atomically(path, "".join(lines).encode())


def _picture(samples: Tensor) -> bytes:
    grid = make_grid(samples.flatten(0, 1).cpu(), nrow=samples.shape[1], padding=2)
    pixels = to_uint8(torch.as_tensor(grid)).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    picture = PIL.Image.fromarray(pixels)
    picture.resize((3 * picture.width, 3 * picture.height), PIL.Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()

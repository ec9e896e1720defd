"""The processes that `accelerate launch` or `torchrun` started, and which of them this is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from puregen_transforms.purifier.device import default_device, parse_device

if TYPE_CHECKING:
    from accelerate import PartialState

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: one may have a part more to do, or the threshold to find."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run.

    Args:
        rank: of this one.
        count: of them all.
        device: for this one; None leaves the choice to the purifier.
    """

    rank: int = 0
    count: int = 1
    device: torch.device | None = None
    state: PartialState | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process does what is to be done once."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


ONE_PROCESS = Processes()


def started_processes(device: torch.device | str | None = None) -> Processes:
    """Find the processes of this run: a single one, unless a launcher has started several.

    Each of several gets a GPU of its own where there are any; on a CPU they share the cores, unless `OMP_NUM_THREADS`
    says otherwise, as it does under `torchrun`, which sets it to 1 where it is not set.

    Args:
        device: asked for; "cpu" keeps all processes off the GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ONE_PROCESS
    from accelerate import PartialState

    kind = (default_device() if device is None else parse_device(device)).type
    if kind == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        own = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        os.environ["OMP_NUM_THREADS"] = str(own)
        torch.set_num_threads(own)
    # There is one Apple GPU, which processes share; to Accelerate each of them would be alone.
    state = PartialState(cpu=kind in ("cpu", "mps"), timeout=PATIENCE)
    place = None if kind == "mps" else state.device
    return Processes(rank=state.process_index, count=state.num_processes, device=place, state=state)

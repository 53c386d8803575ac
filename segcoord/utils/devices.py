"""Which devices a run has, in which precision, and how its processes start and end."""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

from segcoord.utils.errors import UserError


def fabric_on(accelerator: str, **settings: object) -> Fabric:
    """One device by its kind, or what further settings of Fabric say.

    Raises:
        UserError: it can't be used here.
    """
    try:
        return Fabric(accelerator=accelerator, **{"devices": 1} | settings)
    except Exception as error:  # Lightning's own type, whose module has moved before
        raise UserError(f"device {accelerator!r} can't be used here: {error}") from error


def evaluation_fabric(accelerator: str) -> Fabric:
    """One device for each process: this one, or those that torchrun started; not launched yet.

    Raises:
        UserError: a device that can't be used here.
    """
    local, nodes = torchrun_processes() or (1, 1)
    strategy = "ddp" if local * nodes > 1 else "auto"
    return fabric_on(accelerator, devices=local, num_nodes=nodes, strategy=strategy)


def is_main_process() -> bool:
    """Whether this is the process that checks, prints and writes; known before the launch."""
    # Before the launch, a process that was started by hand on another node has no other number.
    return rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def torchrun_processes() -> tuple[int, int] | None:
    """Processes per node and nodes; None where torchrun started nothing."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error says, in one of several ways, that there is too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error) or "MemoryError" in str(error)

"""Devices and processes through Lightning Fabric and torchrun."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

from segcoord.utils.errors import UserError


def fabric_on(accelerator: str, **settings: object) -> Fabric:
    """A Fabric on one device, unless `settings` for Fabric say otherwise.

    Raises:
        UserError: the device is not available.
    """
    try:
        return Fabric(accelerator=accelerator, **{"devices": 1} | settings)
    except Exception as error:  # Lightning's exception class has moved between versions
        raise UserError(f"device {accelerator!r} can't be used here: {error}") from error


def evaluation_fabric(accelerator: str) -> Fabric:
    """A Fabric, not launched yet, with one device per process: this one, or all of torchrun's.

    Raises:
        UserError: the device is not available.
    """
    local, nodes = torchrun_processes() or (1, 1)
    strategy = "ddp" if local * nodes > 1 else "auto"
    return fabric_on(accelerator, devices=local, num_nodes=nodes, strategy=strategy)


def is_main_process() -> bool:
    """Whether this is the process that prints and writes; works before Fabric is launched."""
    # Before the launch, the first process of another node also has rank 0.
    return rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def torchrun_processes() -> tuple[int, int] | None:
    """(processes per node, nodes), or None outside torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether an error means that CPU or GPU memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    messages = ("can't allocate memory", "MemoryError", "CUDA error: out of memory")
    return any(message in str(error) for message in messages)

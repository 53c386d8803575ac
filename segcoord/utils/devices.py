"""Devices and the processes of torchrun."""

import atexit
import os

import torch
import torch.distributed as dist

from segcoord.utils.errors import UserError


def find_device(name: str) -> torch.device:
    """The device with a name; under torchrun, this process's GPU.

    Args:
        name: cpu, cuda, mps, gpu for either of these two, or auto for a GPU if there is one.

    Raises:
        UserError: an unknown name, or a device that is not available.
    """
    gpus = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    found = {"auto": [*gpus, "cpu"], "cpu": ["cpu"], "gpu": gpus} | {gpu: [gpu] for gpu in gpus}
    if not found.get(name):
        raise UserError(
            f"device {name!r} can't be used here; available are auto, {', '.join([*gpus, 'cpu'])}"
        )
    index = int(os.environ.get("LOCAL_RANK", 0)) if found[name][0] == "cuda" else None
    return torch.device(found[name][0], index)


def torchrun_processes() -> tuple[int, int] | None:
    """(processes per node, nodes), or None outside torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def join_torchrun(device: torch.device) -> None:
    """Wait for the other processes of torchrun, if any, and form a process group with them."""
    if torchrun_processes() is not None and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)


def is_main_process() -> bool:
    """Whether this is the process that prints and writes; works before the group is formed."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    # The variables of torchrun, Lightning and SLURM. Lightning's first process on another node has
    # rank 0 until it has joined.
    ranks = (os.environ.get(key) for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    rank = next((int(r) for r in ranks if r is not None), 0)
    return rank == 0 and os.environ.get("NODE_RANK", "0") == "0"

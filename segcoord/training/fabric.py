"""TODO."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from segcoord.config.schema import OptimConfig
from segcoord.utils.devices import fabric_on, is_out_of_memory, torchrun_processes
from segcoord.utils.errors import UserError

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def training_fabric(config: OptimConfig) -> Fabric:
    """The devices of a training, in its precision; not launched yet.

    Raises:
        UserError: devices that can't be used, or other than the launcher's; a batch that they
            can't share; a precision that they don't have.
    """
    devices, nodes = _launched(config)
    if devices * nodes > 1:
        share = config.batch_size / (devices * nodes * config.accumulate)
        if share != int(share):
            raise UserError(
                f"train.batch_size: {config.batch_size} images of a step can't be shared among "
                f"{devices * nodes} devices and train.accumulate {config.accumulate}; take a "
                f"multiple of {devices * nodes * config.accumulate}"
            )
        if share < 2 and not config.sync_bn:
            raise UserError(
                f"train.batch_size: {config.batch_size} leaves each device one image, on which "
                "batch norm can't train without train.sync_bn"
            )
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = fabric_on(
        config.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=_PRECISIONS[config.precision] if config.precision != "auto" else None,
    )
    kind = fabric.device.type
    if config.precision == "fp16" and kind != "cuda":
        raise UserError(f"train.precision: fp16 needs cuda, found {kind}; use bf16 or fp32")
    if config.precision == "auto" and kind == "cuda" and torch.cuda.is_bf16_supported(False):
        fabric = fabric_on(
            config.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision="bf16-mixed",
        )
    return fabric


def _launched(config: OptimConfig) -> tuple[int, int]:
    """Devices per node and nodes, from the settings or from torchrun."""
    devices, nodes = config.devices or 1, config.num_nodes
    theirs = torchrun_processes()
    if theirs is None:
        return devices, nodes
    if (config.devices is not None or config.num_nodes != 1) and theirs != (devices, nodes):
        raise UserError(
            f"train.devices, train.num_nodes: found {devices} and {nodes}, but torchrun started "
            f"{theirs[0]} processes on each of {theirs[1]} nodes; leave the settings out"
        )
    return theirs


def kill_child_processes(fabric: Fabric) -> None:
    """Ends the processes that Fabric started beside this one, which would wait for it for ever."""
    for process in getattr(fabric.strategy.launcher, "procs", ()):
        process.kill()
        process.wait()


@contextmanager
def explain_out_of_memory(settings: OptimConfig) -> Iterator[None]:
    """Says which setting to lower where the memory is not enough."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        told = str(error)
        raise UserError(
            f"Out of memory ({told.splitlines()[0] if told else 'MemoryError'}). Lower "
            f"train.batch_size (now {settings.batch_size}) or data.crop_size, or keep them and "
            f"raise train.accumulate (now {settings.accumulate}) or set "
            "train.gradient_checkpointing."
        ) from error

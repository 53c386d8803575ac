"""Lightning Fabric for training: devices, precision, child processes, out-of-memory errors."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segcoord.config.schema import OptimConfig
from segcoord.utils.devices import torchrun_processes
from segcoord.utils.errors import UserError, is_out_of_memory
from segcoord.utils.lazy_imports import import_fabric

import_fabric()
from lightning_fabric import Fabric  # noqa: E402

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the summary says the same

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def training_fabric(config: OptimConfig) -> Fabric:
    """Create the Fabric of a training run, not launched yet.

    Raises:
        UserError: The devices are unavailable or differ from torchrun's, the batch can't be divided
            among them, or they don't support the precision.
    """
    devices, nodes = _devices_and_nodes(config)
    processes = devices * nodes
    if processes > 1:
        _require_divisible_batch(config, processes)

    def create(precision: str | None) -> Fabric:
        try:
            return Fabric(
                accelerator=config.accelerator,
                devices=devices,
                num_nodes=nodes,
                strategy="ddp" if processes > 1 else "auto",
                precision=precision,
            )
        except Exception as error:  # Lightning's exception class has moved between versions
            message = f"train.accelerator: {config.accelerator!r} can't be used here: {error}"
            raise UserError(message) from error

    fabric = create(None)
    device_type = fabric.device.type
    if config.precision == "fp16" and device_type != "cuda":
        raise UserError(f"train.precision: fp16 needs cuda, found {device_type}; use bf16 or fp32")
    precision = _PRECISIONS.get(config.precision)
    if config.precision == "auto" and device_type == "cuda" and torch.cuda.is_bf16_supported(False):
        precision = "bf16-mixed"
    return fabric if precision is None else create(precision)


def _devices_and_nodes(config: OptimConfig) -> tuple[int, int]:
    """Devices per node and number of nodes, from the settings or from torchrun."""
    devices, nodes = config.devices or 1, config.num_nodes
    launched = torchrun_processes()
    if launched is None:
        return devices, nodes
    if (config.devices is not None or config.num_nodes != 1) and launched != (devices, nodes):
        raise UserError(
            f"train.devices, train.num_nodes: found {devices} and {nodes}, but torchrun started "
            f"{launched[0]} processes on each of {launched[1]} nodes; remove the settings"
        )
    return launched


def _require_divisible_batch(config: OptimConfig, processes: int) -> None:
    divisor = processes * config.accumulate
    if config.batch_size % divisor:
        raise UserError(
            f"train.batch_size: the {config.batch_size} images of a step can't be divided among "
            f"{processes} devices and train.accumulate {config.accumulate}; use a multiple of "
            f"{divisor}"
        )
    if config.batch_size == divisor and not config.sync_bn:
        raise UserError(
            f"train.batch_size: {config.batch_size} leaves one image per device, too few for "
            "batch norm without train.sync_bn"
        )


def kill_child_processes(fabric: Fabric) -> None:
    """Kill the processes that Fabric started; they would wait for this one forever."""
    started = getattr(fabric.strategy.launcher, "procs", [])
    processes = [*started]
    started.clear()  # or Lightning's watching thread kills this process, too
    for process in processes:
        process.kill()
        process.wait()


@contextmanager
def explain_out_of_memory(settings: OptimConfig) -> Iterator[None]:
    """Re-raise an out-of-memory error as a UserError that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error)
        raise UserError(
            f"Out of memory ({message.splitlines()[0] if message else 'MemoryError'}). Lower "
            f"train.batch_size (now {settings.batch_size}) or data.crop_size, or keep them and "
            f"raise train.accumulate (now {settings.accumulate}) or set "
            "train.gradient_checkpointing."
        ) from error

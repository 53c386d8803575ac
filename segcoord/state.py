"""The state of a run: what last.ckpt holds, how it is written, and how a run finds it again.

last.ckpt is replaced only by a whole new one, and the one before it stays as previous.ckpt. Both
carry checksums (those of the zip that a PyTorch file is); a damaged last.ckpt costs the steps since
previous.ckpt and no more.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from segcoord.checkpoints import read_checkpoint
from segcoord.console import console
from segcoord.ema import Ema
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.model import ImageModel


@dataclass
class Progress:
    """The numbers of a run's state: what a checkpoint holds besides weights and optimiser.

    Args:
        step: optimiser steps done.
        validated: the step of the last validation; -1 before the first.
        best: the best headline score of all validations; -1 before the first.
        since_best: validations since then.
        loss_sum, loss_count: of the steps since the last row of metrics.csv.
        seconds: spent in the loop, over all sessions of the run.
    """

    step: int = 0
    validated: int = -1
    best: float = -1.0
    since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


def keep_previous(run: Path) -> None:
    """Lets the present last.ckpt stand as previous.ckpt too, at no moment without a name.

    Raises:
        UserError: it can't, where the disk is full and its file system has no hard links.
    """
    if (run / "last.ckpt").exists():
        _name_too(run / "last.ckpt", run / "previous.ckpt")


def _name_too(file: Path, name: Path) -> None:
    with atomic_write(name) as temporary:
        temporary.unlink()
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(file, temporary)


def read_state(run: Path) -> dict:
    """The newest whole state of a run, for `restore`.

    A last.ckpt that is damaged or gone is told and replaced by previous.ckpt, which stays: other
    processes of the run may be about to read it.

    Raises:
        UserError: neither is there or can be used, or it is of another version.
    """
    last, previous = run / "last.ckpt", run / "previous.ckpt"
    if not last.exists() and not previous.exists():
        raise UserError(
            f"{run}: it has no last.ckpt, so the run ended before its first step, or the file was "
            "taken away. Delete the folder and start again, or name another folder with --run."
        )
    try:
        state = read_checkpoint(last)
    except UserError as error:
        if not previous.exists():
            raise
        try:
            state = read_checkpoint(previous)
        except UserError as second:
            raise UserError(f"{error}\nand so is the one before: {second}") from second
        step = state.get("progress", {}).get("step")
        console.print(f"{error}\nThe run goes on from {previous}, step {step}.", style="yellow")
        _name_too(previous, last)
    if "optimizer" not in state:
        raise UserError(f"{last}: weights alone, expected the state of a run. See --init-from.")
    if missing := {"training", "precision", "progress", "config"} - state.keys():
        raise UserError(
            f"{last}: a state of another version, without {', '.join(sorted(missing))}. A new run "
            f"can start from its weights: --init-from {last}"
        )
    return state


def restore(
    state: dict,
    run: Path,
    model: ImageModel,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
) -> Progress:
    """Puts a state from `read_state` into what is trained.

    Raises:
        UserError: it belongs to another model, or lacks something.
    """
    path = run / "last.ckpt"
    if state["model"] != model.to_plain():
        then = state["model"]
        told = "; ".join(
            f"{key} was {then.get(key)}, is {value}"
            for key, value in model.to_plain().items()
            if then.get(key) != value
        )
        raise UserError(f"{path}: a run can't change its model or classes, but {told}")
    try:
        module.load_state_dict(state["training"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.model.load_state_dict(state["state_dict"])
        return Progress(**state["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: a state of another version or of another run ({error}). A new run can start "
            f"from its weights: --init-from {path}"
        ) from error

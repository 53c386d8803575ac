"""The state of a run: what last.ckpt holds, how it is written, and how a run finds it again.

last.ckpt is replaced only by a whole new one, and the one before it stays as previous.ckpt. Both
carry checksums (those of the zip that a PyTorch file is); a damaged last.ckpt costs the steps since
previous.ckpt and no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from segcoord.config.schema import Config
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.segmentation import ImageModel
from segcoord.training.ema import Ema
from segcoord.training.run_dir import (
    read_origin,
)
from segcoord.training.task import Task
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write


@dataclass
class TrainingProgress:
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
        _hard_link(run / "last.ckpt", run / "previous.ckpt")


def _hard_link(file: Path, name: Path) -> None:
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
        _hard_link(previous, last)
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
) -> TrainingProgress:
    """Puts a state from `read_state` into what is trained.

    Raises:
        UserError: it belongs to another model, or lacks something.
    """
    path = run / "last.ckpt"
    if state["model"] != model.to_dict():
        then = state["model"]
        told = "; ".join(
            f"{key} was {then.get(key)}, is {value}"
            for key, value in model.to_dict().items()
            if then.get(key) != value
        )
        raise UserError(f"{path}: a run can't change its model or classes, but {told}")
    try:
        module.load_state_dict(state["training"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.model.load_state_dict(state["state_dict"])
        return TrainingProgress(**state["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: a state of another version or of another run ({error}). A new run can start "
            f"from its weights: --init-from {path}"
        ) from error


# A resumed run is the same run: only what changes neither batches nor updates may differ.
_MAY_CHANGE = {
    *("data.root", "data.workers", "data.pack"),
    *("train.val_interval", "train.patience", "train.stop_if_unsaved"),
    *("train.accelerator", "train.devices", "train.num_nodes"),
    "train.loggers",
}


def digest_of_images(task: Task) -> dict[str, object]:
    """How many images are trained on, and a digest of their names in the order that draws count."""
    names = [task.train_set.path(index).name for index in range(len(task.train_set))]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"count": len(names), "names_sha256": digest}


def require_same_images(run: Path, task: Task) -> None:
    """Raises UserError where the training split now lists other images than at the start."""
    now = digest_of_images(task)
    before = read_origin(run).get("train_images") or now  # runs of older versions don't tell
    if before != now:
        told = f"{before['count']} images, now {now['count']}"
        if before["count"] == now["count"]:
            told = f"{now['count']} images, of which some now have other names or another order"
        raise UserError(
            f"--resume {run}: the training split had {told}. Bring back the list it began with, or "
            f"start a new run with --init-from {run}/best.ckpt."
        )


def require_same_class_weights(run: Path, weights: dict[str, float] | None) -> None:
    """Raises UserError where the training masks now give other class weights than at the start."""
    if weights is None:
        return
    before = read_origin(run).get("class_weights") or {}
    differ = [f"{n} {before.get(n)}, now {w}" for n, w in weights.items() if w != before.get(n)]
    if differ:
        raise UserError(
            f"--resume {run}: the class weights were {'; '.join(differ)}. The training masks have "
            "changed since the run began; bring back those it began with, or start a new run with "
            f"--init-from {run}/best.ckpt."
        )


def require_same_settings(config: Config, state: dict, run: Path) -> None:
    saved, given = state.get("config", {}), asdict(config)
    before, now = (_flat(json.loads(json.dumps(c))) for c in (saved, given))  # tuples to lists
    for group in fields(config):  # a setting that the run's version didn't have was at its default
        for field in fields(getattr(config, group.name)):
            if field.default is not MISSING:
                before.setdefault(f"{group.name}.{field.name}", field.default)
    changed = [k for k in now if now[k] != before.get(k) and k not in _MAY_CHANGE]
    if changed:
        listed = "\n".join(f"  {k}: {before.get(k)} in the run, {now[k]} now" for k in changed)
        raise UserError(
            f"--resume {run}: a run goes on as it began, but these settings differ:\n{listed}\n"
            f"To train on with other settings start a new run with --init-from {run}/best.ckpt."
        )


def _flat(tree: dict) -> dict[str, object]:
    return {f"{group}.{key}": value for group, keys in tree.items() for key, value in keys.items()}

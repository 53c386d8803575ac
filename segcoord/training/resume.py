"""The state of a run: what last.ckpt holds, reading and restoring it, and checks before a resume.

last.ckpt is replaced atomically, and its predecessor stays as previous.ckpt. Both carry the CRCs of
the zip format of PyTorch files, so a damaged last.ckpt costs only the steps since previous.ckpt.

A resumed run sees the same batches and augmentations because `data/loader.py` and
`data/transforms.py` compute them from (seed, step) and (seed, epoch, index).
"""

import hashlib
import json
import os
import shutil
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import torch
from torch import nn

from segcoord.config.schema import SegmentationConfig
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.segmentation import ImageModel
from segcoord.training.ema import Ema
from segcoord.training.run_dir import read_origin
from segcoord.training.segmentation import SegmentationTask
from segcoord.training.startup_summary import class_weights_by_name
from segcoord.training.task import Task
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

# A resumed run is the same run: only settings that change neither batches nor updates may differ.
_CHANGEABLE = {
    *("data.root", "data.workers", "data.pack"),
    *("data.augmentation", "train.teacher"),  # the contents of their files are compared
    *("train.val_interval", "train.patience", "train.stop_if_unsaved"),
    *("train.accelerator", "train.devices", "train.num_nodes"),
    "train.loggers",
}


@dataclass
class TrainerState:
    """The counters of a run, saved as "progress" beside weights and optimizer.

    Args:
        step: optimizer steps done.
        validated: step of the latest validation; -1 before the first.
        best: best headline score of all validations; -1 before the first.
        best_step: step of that validation; -1 if unknown, as in states of older versions.
        since_best: validations since then, ties included.
        loss_sum, loss_count: of the steps since the last row of metrics.csv.
        seconds: training time of all sessions of the run.
    """

    step: int = 0
    validated: int = -1
    best: float = -1.0
    best_step: int = -1
    since_best: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


def keep_previous(run: Path) -> None:
    """Keep the current last.ckpt as previous.ckpt too.

    Raises:
        UserError: the disk is full and the file system has no hard links.
    """
    if (run / "last.ckpt").exists():
        _hard_link(run / "last.ckpt", run / "previous.ckpt")


def _hard_link(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        temporary.unlink()
        try:
            os.link(source, temporary)
        except OSError:  # no hard links on this file system
            shutil.copyfile(source, temporary)


def read_state(run: Path) -> dict:
    """Read the newest intact state of a run.

    A damaged or missing last.ckpt is reported and replaced with previous.ckpt. previous.ckpt stays,
    because other processes of the run may be about to read it.

    Raises:
        UserError: neither file is usable, or the state is of another version.
    """
    last, previous = run / "last.ckpt", run / "previous.ckpt"
    if not last.exists() and not previous.exists():
        raise UserError(
            f"{run}: has no last.ckpt; the run ended before its first step, or the file was "
            "removed. Delete the folder and start again, or name another folder with --run."
        )
    try:
        state = read_checkpoint(last)
    except UserError as error:
        if not previous.exists():
            raise
        try:
            state = read_checkpoint(previous)
        except UserError as second:
            raise UserError(f"{error}\nThe previous state is unusable too: {second}") from second
        step = state.get("progress", {}).get("step")
        console.print(f"{error}\nResuming from {previous}, step {step}.", style="yellow")
        _hard_link(previous, last)
    if "optimizer" not in state:
        raise UserError(
            f"{last}: found weights only, expected the state of a run. Start a new run from them "
            "with --init-from."
        )
    if missing := {"training", "precision", "progress", "config"} - state.keys():
        raise UserError(
            f"{last}: a state of another version, without {', '.join(sorted(missing))}. Start a "
            f"new run from its weights with --init-from {last}"
        )
    return state


def restore(
    state: dict,
    run: Path,
    model: ImageModel,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
) -> TrainerState:
    """Load a state from `read_state` into model, optimizer and EMA; returns its counters.

    Raises:
        UserError: the state belongs to another model or is incomplete.
    """
    path = run / "last.ckpt"
    description = model.to_dict()
    if state["model"] != description:
        changes = "; ".join(
            f"{key} was {state['model'].get(key)}, is {value}"
            for key, value in description.items()
            if state["model"].get(key) != value
        )
        raise UserError(f"{path}: a run can't change its model or classes, but {changes}")
    try:
        module.load_state_dict(state["training"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.model.load_state_dict(state["state_dict"])
        return TrainerState(**state["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path}: a state of another version or of another run ({error}). Start a new run from "
            f"its weights with --init-from {path}"
        ) from error


def require_same_settings(config: SegmentationConfig, state: dict, run: Path) -> None:
    """Raise UserError if a setting differs that would change the run."""
    before, now = flat_settings(config, state.get("config", {})), flat_settings(config)
    changed = [key for key in now if now[key] != before.get(key) and key not in _CHANGEABLE]
    if changed:
        listed = "\n".join(f"  {k}: {before.get(k)} in the run, {now[k]} now" for k in changed)
        raise UserError(
            f"--resume {run}: a run resumes with its own settings, but these differ:\n{listed}\n"
            f"To train with other settings, start a new run with --init-from {run}/best.ckpt."
        )


def flat_settings(config: SegmentationConfig, saved: dict | None = None) -> dict[str, object]:
    """The settings of a configuration, or those saved by a run, as {"data.root": ...}.

    A setting that the version of the run didn't have gets its default value.
    """
    tree = json.loads(json.dumps(asdict(config) if saved is None else saved))  # tuples to lists
    flat = {}
    for group in fields(config):
        for field in fields(getattr(config, group.name)):
            if field.default is not MISSING:
                flat[f"{group.name}.{field.name}"] = field.default
        flat |= {f"{group.name}.{key}": v for key, v in tree.get(group.name, {}).items()}
    return flat


def run_inputs(task: Task) -> dict[str, object]:
    """What a resumed run must find unchanged: training data, augmentation file, teacher.

    The images are their number and a digest of their names, in the order that sampling depends on.
    With data.skip_bad also, for the record only, how many samples of each split it left out.
    """
    names = [task.train_set.path(index).name for index in range(len(task.train_set))]
    images = {"count": len(names), "names_sha256": _sha256("\n".join(names).encode())}
    path = getattr(task.config.data, "augmentation", None)
    teacher = getattr(task.module, "teacher", None)
    rare_classes = getattr(task.train_set, "rare_classes", None)
    return {
        "class_weights": class_weights_by_name(task),
        "train_images": images,
        "augmentation_sha256": path and _sha256(Path(path).expanduser().read_bytes()),
        "teacher_sha256": teacher and teacher.sha256,
        "rare_classes_sha256": rare_classes and rare_classes.sha256,
        **_left_out(task),
    }


def _left_out(task: Task) -> dict[str, dict]:
    """The number of samples that data.skip_bad left out, by split; empty without that setting."""
    if not isinstance(task, SegmentationTask) or not task.config.data.skip_bad:
        return {}
    splits = (task.train_set.split, task.val_split)
    return {"left_out": {split.name: split.left_out for split in splits}}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def require_same_inputs(run: Path, task: Task) -> None:
    """Raise UserError if one of `run_inputs` has changed since the start of the run."""
    saved, current = read_origin(run), run_inputs(task)
    remedy = f"start a new run with --init-from {run}/best.ckpt."
    now = current["train_images"]
    before = saved.get("train_images") or now  # older versions don't record it
    if before != now:
        change = f"had {before['count']} images, now {now['count']}"
        if before["count"] == now["count"]:
            change = f"has {now['count']} images as before, but their names or their order changed"
        raise UserError(
            f"--resume {run}: the training split {change}. Restore the original list, or {remedy}"
        )
    if saved.get("augmentation_sha256") != current["augmentation_sha256"]:
        raise UserError(
            f"--resume {run}: the file of data.augmentation has changed since the start of the "
            f"run. Restore it, or {remedy}"
        )
    if saved.get("teacher_sha256") != current["teacher_sha256"]:
        raise UserError(
            f"--resume {run}: train.teacher ({task.config.train.teacher}) is not the file that the "
            f"run started with. Restore it, name a copy of it with --train.teacher, or {remedy}"
        )
    if saved.get("rare_classes_sha256") != current["rare_classes_sha256"]:
        raise UserError(
            f"--resume {run}: the training masks have changed since the start of the run, and "
            f"data.rare_class_sampling depends on their classes. Restore the masks, or {remedy}"
        )
    before, now = (inputs.get("class_weights") or {} for inputs in (saved, current))
    changes = [f"{n} {before.get(n)}, now {w}" for n, w in now.items() if w != before.get(n)]
    if changes:
        raise UserError(
            f"--resume {run}: the class weights were {'; '.join(changes)}. The training masks have "
            f"changed since the start of the run; restore them, or {remedy}"
        )

"""What the commands do, once their arguments are read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from segcoord.config import Config, DataConfig
from segcoord.console import console, counting_bar, show_pairs, show_scores
from segcoord.data.check import SplitCheck, check_split
from segcoord.data.layouts import Sample, Split, find_split, label_set
from segcoord.errors import UserError
from segcoord.evaluation import check_labels, evaluate, protocol, write_json
from segcoord.export.masks import write_mask
from segcoord.export.overlays import blend, overlay, sheet, write_picture
from segcoord.files import atomic_write
from segcoord.labels import CITYSCAPES, VOC
from segcoord.model import SegmentationModel, create_model, init_from, load, read_checkpoint
from segcoord.runs import new_run, write_origin
from segcoord.training import Stopped, train

SHEET_ROWS = 6

# Images by split: VOC 2012 development kit; 10582 with SBD's; cityscapes-dataset.com.
PUBLISHED = (
    (VOC, {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}),
    (CITYSCAPES, {"train": 2975, "val": 500, "test": 1525}),
)

# A resumed run is the same run: only what changes neither batches nor updates may differ.
_MAY_CHANGE = {"data.root", "data.workers", "train.val_interval", "train.accelerator"}


def run_training(
    config: Config,
    name: str,
    run: str | None,
    resume: str | None,
    init: str | None,
    program: str,
) -> int:
    """Checks data and settings, makes the run's folder and trains; returns the exit code."""
    if resume:
        _check_unchanged(config, Path(resume))
    fabric = _fabric(config.train.accelerator)
    torch.manual_seed(config.train.seed)
    model = create_model(
        config.model.encoder,
        len(label_set(config.data)),
        config.model.output_stride,
        config.model.atrous_rates,
        config.model.aspp_dropout,
        reduction=config.model.reduction,
        encoder_weights=None if resume else config.model.encoder_weights,
        labels=label_set(config.data),
    )
    missing = init_from(model, Path(init)) if init else []
    splits = (
        find_split(config.data, config.data.train_split),
        find_split(config.data, config.data.val_split),
    )
    checks = [_check(split) for split in splits]
    _show_summary(config, model, splits, checks, fabric.device)
    if missing:
        console.print(f"{init}: {len(missing)} tensors did not fit:", *missing, sep="\n  ")
    folder = Path(resume) if resume else new_run(run, name)
    if not resume:
        with atomic_write(folder / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml())
        write_origin(folder, init)
    console.print(f"run        {folder}\n")
    try:
        scores = train(model, config, splits, folder, fabric, bool(resume))
    except Stopped:
        command = f"python {program}" if program.endswith(".py") else program
        console.print(
            f"Stopped and saved. Go on with: {command} --resume {shlex.quote(str(folder))}"
        )
        return 130
    if scores is None:
        console.print(f"{folder} has done all its {config.train.max_steps} steps already.")
        return 0
    show_scores(scores, model.labels.names, len(splits[1]))
    console.print(f"\nThe best weights are {folder / 'best.ckpt'}")
    return 0


def _fabric(accelerator: str) -> Fabric:
    try:
        return Fabric(accelerator=accelerator, devices=1)
    except Exception as error:  # Lightning's own type, whose module has moved before
        raise UserError(f"device {accelerator!r} can't be used here: {error}") from error


def _check_unchanged(config: Config, run: Path) -> None:
    saved, given = read_checkpoint(run / "last.ckpt").get("config", {}), asdict(config)
    before, now = (_flat(json.loads(json.dumps(c))) for c in (saved, given))  # tuples to lists
    changed = [k for k in now if now[k] != before.get(k) and k not in _MAY_CHANGE]
    if changed:
        listed = "\n".join(f"  {k}: {before.get(k)} in the run, {now[k]} now" for k in changed)
        raise UserError(
            f"--resume {run}: a run goes on as it began, but these settings differ:\n{listed}\n"
            f"To train on with other settings start a new run with --init-from {run}/best.ckpt."
        )


def _flat(tree: dict) -> dict[str, object]:
    return {f"{group}.{key}": value for group, keys in tree.items() for key, value in keys.items()}


def check_data(data: DataConfig, name: str | None) -> None:
    """Checks one split, or the training and the validation split, and shows what is in it."""
    data.check()
    names = [name] if name else dict.fromkeys((data.train_split, data.val_split))
    splits = [find_split(data, name) for name in names]
    checks = [_check(split) for split in splits]
    if name is None:
        _require_labels(splits, checks, data)
    _show_data(splits, checks)
    console.print("No mistake found.")


def _require_labels(
    splits: Sequence[Split], checks: Sequence[SplitCheck], data: DataConfig
) -> None:
    for split, check in zip(splits, checks):
        if not check.pixels.any():
            found = "only void in its masks" if split.labelled else "no masks"
            raise UserError(
                f"split {split.name!r} of {data.root} has {found}, to train on or to score; "
                "see data/README.md for the folder where they belong"
            )


def _check(split: Split) -> SplitCheck:
    with counting_bar() as bar:
        task = bar.add_task(f"check {split.name}", total=len(split))
        return check_split(split, lambda: bar.advance(task))


def _show_data(splits: Sequence[Split], checks: Sequence[SplitCheck]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(f"{split.name}: images", justify="right")
        table.add_column("pixels %", justify="right")
    for index, name in enumerate(splits[0].labels.names):
        row = [name]
        for check in checks:
            share = 100 * check.pixels[index] / max(1, check.pixels.sum())
            row += [str(check.images[index]), f"{share:.2f}"]
        table.add_row(*row)
    console.print(table)
    for split, check in zip(splits, checks):
        void = 100 * check.void / max(1, check.void + check.pixels.sum())
        has = f"void {void:.2f} %" if split.labelled else "no labels"
        console.print(f"{split.name}: {len(split)} images{_published(split)}, {has}")
    shared = {s.image for s in splits[0].samples} & {s.image for s in splits[-1].samples}
    if len(splits) > 1 and shared:
        console.print(
            f"{len(shared)} images are in both splits: a score on them is no score.",
            style="bold red",
        )


def _published(split: Split) -> str:
    """For the datasets whose size is known, whether this is all of it."""
    known = next((counts for labels, counts in PUBLISHED if split.labels == labels), {})
    expected = known.get(split.name)
    if expected is None:
        return ""
    return " (as published)" if len(split) == expected else f" (the published split has {expected})"


def _show_summary(
    config: Config,
    model: SegmentationModel,
    splits: tuple[Split, Split],
    checks: list[SplitCheck],
    device: torch.device,
) -> None:
    _require_labels(splits, checks, config.data)
    _show_data(splits, checks)
    data, settings = config.data, config.train
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    height, width = data.crop_size
    epochs = settings.max_steps * settings.batch_size / len(splits[0])
    stride, rates = model.output_stride, model.spec["atrous_rates"]
    console.print()
    show_pairs(
        "",
        [
            ("model", f"DeepLabV3, {config.model.encoder}, stride {stride}, rates {rates}"),
            (
                "size",
                f"{parameters:.2f} M parameters, {giga_macs(model, height, width):.2f} G "
                f"multiply-adds at {width}x{height}",
            ),
            ("data", f"{data.layout} {data.root}, crops {width}x{height}"),
            ("steps", f"{settings.max_steps} of {settings.batch_size} images, {epochs:.1f} epochs"),
            (
                "optimiser",
                f"{settings.optimizer}, lr {settings.lr:g}, encoder x"
                f"{settings.encoder_lr_factor:g}, decay {settings.weight_decay:g}",
            ),
            (
                "device",
                f"{device}, {torch.get_num_threads()} threads"
                if device.type == "cpu"
                else f"{device}, {torch.cuda.get_device_name(device)}"
                if device.type == "cuda"
                else str(device),
            ),
        ],
    )


def giga_macs(model: SegmentationModel, height: int, width: int) -> float:
    """Multiply-adds of convolutions and matrix products for one image, in 1e9."""
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() / 2e9


def run_evaluation(args: Namespace, data: DataConfig) -> int:
    """Scores a checkpoint on a split and writes what was asked for; returns the exit code."""
    data.check()
    device = _fabric(args.device).device
    model = load(args.checkpoint, device)
    check_labels(model, label_set(data), f"{data.layout} {data.root}")
    split = find_split(data, args.split or data.val_split)
    if not split.labelled and not (args.masks or args.overlays):
        raise UserError(
            f"split {split.name!r} has no masks, so there is nothing to score; "
            "give --masks DIR or --overlays DIR to write predictions"
        )
    if not split.labelled and (args.json or args.sheet):
        raise UserError(f"--json and --sheet compare with truth; split {split.name!r} has none")
    _refuse_to_overwrite(split, args.masks, args.overlays)
    picked = set(np.linspace(0, len(split) - 1, min(SHEET_ROWS, len(split))).round().astype(int))
    rows: list[list[np.ndarray]] = []
    done = 0

    def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        nonlocal done
        if args.masks:
            path = Path(args.masks) / f"{sample.stem}.png"
            write_mask(path, prediction, split.labels, palette=data.layout != "cityscapes")
        if args.overlays:
            path = Path(args.overlays) / f"{sample.stem}.png"
            write_picture(path, overlay(image, prediction, model.labels))
        if args.sheet and done in picked:
            rows.append(
                [image, blend(image, truth, model.labels), blend(image, prediction, model.labels)]
            )
        done += 1
        bar.advance(task)

    with counting_bar() as bar:
        task = bar.add_task(f"evaluate {split.name}", total=len(split))
        scores = evaluate(model, split, data.workers, on_image)
    if scores is None and split.labelled:
        told = f"split {split.name!r}: no pixel of its {len(split)} masks counts; they are dummies"
        if args.json or not (args.masks or args.overlays):
            raise UserError(f"{told}. Predict it with --masks, and don't score it.")
        console.print(f"{told}, and were not scored.")
    if scores is not None:
        show_scores(scores, model.labels.names, len(split))
        if args.json:
            how = protocol(model, split, data.root, Path(args.checkpoint))
            write_json(Path(args.json), scores, model.labels, how)
    if args.sheet:
        titles = ("image", "truth", "prediction")
        write_picture(Path(args.sheet), sheet(rows, titles, model.labels))
    for what in ("masks", "overlays", "sheet", "json"):
        if getattr(args, what):
            console.print(f"{what:10} {getattr(args, what)}")
    return 0


def _refuse_to_overwrite(split: Split, *folders: str | None) -> None:
    """Raises UserError where an export would replace the dataset, or another export."""
    given = [Path(folder).resolve() for folder in folders if folder]
    if len(set(given)) < len(given):
        raise UserError(f"--masks and --overlays: both are {given[0]}, expected two folders")
    own = {p.resolve() for s in split.samples for p in (s.image, s.mask) if p}
    for folder in given:
        for sample in split.samples:
            target = folder / f"{sample.stem}.png"
            if target in own:
                raise UserError(f"{target}: is a file of the dataset; choose another folder")

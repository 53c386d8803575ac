"""What the smaller commands do, once their arguments are read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jsonargparse import Namespace
from rich.table import Table

from segcoord.checkpoints import load
from segcoord.cityscapes_scores import (
    CityscapesScores,
    InstanceWeights,
    instances_path,
    read_instances,
)
from segcoord.config import DataConfig
from segcoord.console import console, counting_bar, show_cityscapes, show_scores
from segcoord.counts import count, encoder_names
from segcoord.data.layouts import Sample, Split, find_split, label_set
from segcoord.data.pack import REMEDY, open_pack, packs_folder, source_of, verify, with_pack
from segcoord.data.packing import write_pack
from segcoord.data.reading import read_image
from segcoord.devices import fabric_on
from segcoord.errors import UserError
from segcoord.evaluation import check_labels, evaluate, protocol, write_json
from segcoord.export.attend import draw_attention
from segcoord.export.masks import write_mask
from segcoord.export.overlays import blend, overlay, sheet, write_picture
from segcoord.report_commands import Report

SHEET_ROWS = 6


def list_models(pattern: str, output_stride: int) -> None:
    """Prints our encoders, those that match a pattern, with their counts."""
    names = encoder_names(pattern)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("encoder", "params", "MACs", "seg. params", "seg. MACs"):
        table.add_column(head, justify="left" if head == "encoder" else "right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    with counting_bar() as bar:
        for name in bar.track(names, description="count"):
            counts = count(name, output_stride)
            table.add_row(
                name,
                f"{counts.parameters / 1e6:.2f} M",
                f"{counts.mega_macs:.0f} M",
                f"{counts.segmentation_parameters / 1e6:.2f} M",
                f"{counts.segmentation_giga_macs:.2f} G",
                counts.weights or "none",
            )
    console.print(table)
    console.print(
        "\nparams, MACs (multiply-adds): with a classifier of 1000 classes, at 224x224.\n"
        f"seg.: as DeepLabV3 of 21 classes at output stride {output_stride}, at 512x512.\n"
        "weights: what encoder_weights: imagenet takes; + random: the attention starts at random."
    )


def draw_attend(paths: list[str], class_name: str | None, block: str | None, out: Path) -> None:
    """Draws a row for each checkpoint in `paths`, of which the last is the image."""
    *checkpoints, image = paths
    if not checkpoints:
        raise UserError(f"found {image} alone, expected CHECKPOINT... and then IMAGE")
    if Path(image).suffix == ".ckpt":
        raise UserError(f"{image}: a checkpoint stands last, where the image is expected")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png")
    models = [(path, load(path)) for path in checkpoints]
    pixels = read_image(Path(image))
    write_picture(out, draw_attention(models, pixels, class_name, block))
    console.print(f"{out}")


def pack_data(
    data: DataConfig, name: str | None, out: str | None, workers: int | None, check_only: bool
) -> None:
    """Writes or verifies the packs of one split, or of the training and the validation split."""
    data.check()
    packs = Path(out).expanduser() if out else packs_folder(data)
    for each in [name] if name else dict.fromkeys((data.train_split, data.val_split)):
        split, folder = find_split(data, each), packs / each
        if check_only:
            pack = open_pack(folder, split)
            with counting_bar() as bar:
                task = bar.add_task(f"verify {each}", total=len(split))
                verify(pack, split, lambda task=task: bar.advance(task))
            console.print(f"{folder}: every byte of {len(split)} images is as it was written")
        elif not _up_to_date(folder, split):
            with counting_bar() as bar:
                task = bar.add_task(f"pack {each}", total=len(split))
                progress = partial(bar.update, task)
                write_pack(split, folder, workers, lambda n, tell=progress: tell(completed=n))
            size = sum(p.stat().st_size for p in folder.iterdir())
            console.print(f"{folder}: {len(split)} images, {size / 1e6:.1f} MB")
    if packs != packs_folder(data) and not check_only:
        console.print(f"To read it: --data.pack {out}")


def _up_to_date(folder: Path, split: Split) -> bool:
    """Whether there is nothing to pack; says so, or why what is there doesn't do."""
    if not folder.exists():
        return False
    try:
        open_pack(folder, split)
    except UserError as error:
        console.print(f"{str(error).removesuffix(REMEDY)}It is written anew.")
        return False
    console.print(f"{folder}: is up to date")
    return True


def run_evaluation(args: Namespace, data: DataConfig) -> int:
    """Scores a checkpoint on a split and writes what was asked for; returns the exit code."""
    data.check()
    device = fabric_on(args.device).device
    model = load(args.checkpoint, device)
    check_labels(model, label_set(data), f"{data.layout} {data.root}")
    split = with_pack(find_split(data, args.split or data.val_split), data)
    if not split.labelled and not (args.masks or args.overlays):
        raise UserError(
            f"split {split.name!r} has no masks, so there is nothing to score; "
            "give --masks DIR or --overlays DIR to write predictions"
        )
    shown = args.report or args.figures
    if not split.labelled and (args.json or args.sheet or shown):
        raise UserError(
            "--json, --sheet, --report and --figures compare with truth; "
            f"split {split.name!r} has none"
        )
    if args.against and not shown:
        raise UserError("--against: is shown in a report; give --report or --figures too")
    _refuse_to_overwrite(split, args.masks, args.overlays)
    picked = set(np.linspace(0, len(split) - 1, min(SHEET_ROWS, len(split))).round().astype(int))
    rows: list[list[np.ndarray]] = []
    instances = _instance_weights(split) if data.layout == "cityscapes" else None
    report = Report(args, model, split, data) if shown else None
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
        if instances is not None:
            found = read_instances(instances_path(sample), prediction.shape)
            instances.update(prediction, found)
        if report is not None:
            report.add(sample, image, prediction, truth)
        done += 1
        bar.advance(task)

    console.print(f"{split.name}: read from {source_of(split, data)}")
    with counting_bar() as bar:
        task = bar.add_task(f"evaluate {split.name}", total=len(split))
        scores = evaluate(model, split, data.workers, on_image)
    if scores is None and split.labelled:
        told = f"split {split.name!r}: no pixel of its {len(split)} masks counts; they are dummies"
        if args.json or shown or not (args.masks or args.overlays):
            raise UserError(f"{told}. Predict it with --masks, and don't score it.")
        console.print(f"{told}, and were not scored.")
    if scores is not None:
        show_scores(scores, model.labels.names, len(split))
        further = {}
        if data.layout == "cityscapes":
            weights = None if instances is None else instances.compute().numpy()
            further["cityscapes"] = CityscapesScores(scores.confusion, weights).to_plain()
            show_cityscapes(further["cityscapes"])
        how = protocol(model, split, data.root, Path(args.checkpoint))
        if args.json:
            write_json(Path(args.json), scores, model.labels, how, further)
        if report is not None:
            report.write(scores, how)
    if args.sheet:
        titles = ("image", "truth", "prediction")
        write_picture(Path(args.sheet), sheet(rows, titles, model.labels))
    for what in ("masks", "overlays", "sheet", "json", "report", "figures"):
        if getattr(args, what):
            console.print(f"{what:10} {getattr(args, what)}")
    return 0


def _instance_weights(split: Split) -> InstanceWeights | None:
    """What counts instances; None where their files don't lie beside all masks, and says so."""
    if not split.labelled:
        return None
    without = [p for p in map(instances_path, split.samples) if not p.is_file()]
    if not without:
        return InstanceWeights()
    console.print(
        f"iIoU is left out, for {len(without)} of {len(split)} masks have no instances beside "
        f"them, as {without[0].name}"
    )
    return None


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

"""What the smaller commands do, once their arguments are read."""

from __future__ import annotations

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
from segcoord.console import console, counted, counting_bar, show_cityscapes, show_scores
from segcoord.counts import count, encoder_names
from segcoord.data.layouts import Sample, Split, find_split, label_set
from segcoord.data.pack import source_of, verify, with_pack
from segcoord.data.reading import read_image
from segcoord.devices import fabric_on
from segcoord.errors import UserError
from segcoord.evaluation import check_labels, evaluate, protocol, write_json
from segcoord.export.attend import draw_attention
from segcoord.export.masks import write_mask
from segcoord.export.overlays import blend, overlay, sheet, write_picture

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
    if not split.labelled and (args.json or args.sheet):
        raise UserError(f"--json and --sheet compare with truth; split {split.name!r} has none")
    _refuse_to_overwrite(split, args.masks, args.overlays)
    if split.pack is not None and split.labelled:  # a wrong byte there would only change the score
        with counted(f"verify {split.name}", len(split)) as tell:
            verify(split.pack, split, tell, masks_alone=True)
    picked = set(np.linspace(0, len(split) - 1, min(SHEET_ROWS, len(split))).round().astype(int))
    rows: list[list[np.ndarray]] = []
    instances = _instance_weights(split) if data.layout == "cityscapes" else None
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
        done += 1
        bar.advance(task)

    console.print(f"{split.name}: read from {source_of(split, data)}")
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
        further = {}
        if data.layout == "cityscapes":
            weights = None if instances is None else instances.compute().numpy()
            further["cityscapes"] = CityscapesScores(scores.confusion, weights).to_plain()
            show_cityscapes(further["cityscapes"])
        if args.json:
            how = protocol(model, split, data.root, Path(args.checkpoint))
            write_json(Path(args.json), scores, model.labels, how, further)
    if args.sheet:
        titles = ("image", "truth", "prediction")
        write_picture(Path(args.sheet), sheet(rows, titles, model.labels))
    for what in ("masks", "overlays", "sheet", "json"):
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

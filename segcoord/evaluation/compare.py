"""What `evaluate --report` and `check_across_splits` do, once their arguments are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from rich.table import Table

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import pixel_source, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation.bootstrap import FEW_IMAGES, Comparison, compare, count_image
from segcoord.evaluation.evaluate import check_labels, evaluate, verify_masks
from segcoord.evaluation.protocol import protocol
from segcoord.inference.load import checkpoint_path, is_exported, load_with_metadata
from segcoord.inference.predict import SINGLE_VIEW
from segcoord.inference.views import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_bar
from segcoord.utils.devices import fabric_on
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_writable_path, write_json

OF_MODEL = ("checkpoint", "step", "ema", "ema_decay", "encoder", "decoder", "reduction")


OF_MODEL += ("output_stride", "runtime", "precision")
"""Keys of the protocol that tell of a model, of which a comparison has two."""


def run_comparison(args: Namespace, data: DataConfig) -> int:
    """Compares two checkpoints on one split; returns the exit code."""
    data.check()
    if args.resamples < 1:
        raise UserError(f"--resamples: found {args.resamples}, expected 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed: found {args.seed}, expected 0 or more")
    paths = [checkpoint_path(args.run_a), checkpoint_path(args.run_b)]
    if args.json:
        require_writable_path(Path(args.json))
        if Path(args.json).resolve() in [path.resolve() for path in paths]:
            raise UserError(f"--json {args.json}: is a checkpoint that is compared")
    device = fabric_on(args.device).device
    models, read = zip(*(load_with_metadata(path, device_for(path, device)) for path in paths))
    for model, path in zip(models, paths):  # both, before either predicts
        check_labels(model, path, data)
    split = with_pack(find_split(data, args.split or data.val_split), data)
    if not split.labelled:
        raise UserError(f"split {split.name!r} has no masks, so there is nothing to compare with")
    console.print(f"{split.name}: read from {pixel_source(split, data)}")
    verify_masks(split)
    a, b = (predict_counts(m, path, split, data.workers) for m, path in zip(models, paths))
    result = compare(a, b, args.resamples, seed=args.seed)
    show_comparison(result, split.labels.names, paths)
    if args.json:
        plain = result.to_dict(split.labels.names)
        for key, model, *checkpoint in zip("ab", models, paths, read):
            how = protocol(model, split, data, SINGLE_VIEW, tuple(checkpoint))
            plain[key] |= {name: how.pop(name) for name in OF_MODEL}
        how["average"] = "one confusion matrix over the split; mean over classes in truth"
        plain["protocol"] = how
        write_json(args.json, plain)
        console.print(f"{'json':10} {args.json}")
    return 0


def device_for(path: Path, device: torch.device) -> torch.device:
    """Where a model can run: an exported one on the CPU alone."""
    return torch.device("cpu") if is_exported(path) else device


def predict_counts(
    model: SegmentationModel, path: Path, split: Split, workers: int, views: Views = SINGLE_VIEW
) -> np.ndarray:
    """(N, 3, K) int64 of `count_image` for each image, as the model of a checkpoint predicts it."""
    counts: list[np.ndarray] = []

    def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        counts.append(count_image(prediction, truth, len(model.labels)))
        bar.advance(task)

    with progress_bar() as bar:
        task = bar.add_task(f"predict {split.name} by {path}", total=len(split))
        if evaluate(model, split, workers, on_image, views) is None:
            raise UserError(f"split {split.name!r}: no pixel of its masks counts; they are dummies")
    return np.stack(counts)


def show_comparison(result: Comparison, names: list[str], paths: list[Path]) -> None:
    """IoU of both by class, the difference with its interval, and what it is worth."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for head in ("A, IoU %", "B, IoU %", "B - A", f"{100 * result.level:g} % interval", "images"):
        table.add_column(head, justify="right", no_wrap=True)
    rows = [*zip(names, result.iou_a, result.iou_b, result.classes, result.images)]
    rows += [("mIoU", result.a, result.b, result.difference, result.drawn)]
    for name, a, b, each, images in rows:
        if not images:
            continue
        few = " *" if images < FEW_IMAGES else ""
        table.add_row(
            name,
            f"{100 * a:.2f}",
            f"{100 * b:.2f}",
            f"{100 * each.value:+.2f}",
            f"{100 * each.low:+.2f} to {100 * each.high:+.2f}",
            f"{images}{few}",
        )
    console.print(table)
    console.print(f"\nA: {paths[0]}\nB: {paths[1]}")
    left_out = [name for name, images in zip(names, result.images) if not images]
    if left_out:
        console.print(f"left out of both, for no truth has them: {', '.join(left_out)}")
    if ((result.images > 0) & (result.images < FEW_IMAGES)).any():
        console.print(f"*: in fewer than {FEW_IMAGES} images, too few to trust the interval")
    console.print(
        f"{result.sentence()}\nThe noise is that of the images ({result.resamples} draws); another "
        "training of the same model differs too, which only several seeds can tell."
    )

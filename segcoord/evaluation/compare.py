"""Compares two checkpoints on one split (`segcoord compare`)."""

from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import pixel_source, verify_masks, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation.bootstrap import count_image, paired_bootstrap
from segcoord.evaluation.evaluate import check_labels, evaluate
from segcoord.evaluation.protocol import protocol
from segcoord.evaluation.tables import print_comparison
from segcoord.inference.load import checkpoint_path, is_exported, load_with_metadata
from segcoord.inference.predict import SINGLE_VIEW
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_bar
from segcoord.utils.devices import find_device
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_writable_path, write_json

MODEL_KEYS = ("checkpoint", "step", "ema", "ema_decay", "encoder", "decoder", "reduction")
MODEL_KEYS += ("output_stride", "runtime", "precision")
"""Keys of the protocol that describe the model; the JSON has them once per model."""


def run_comparison(args: Namespace, data: DataConfig) -> int:
    """Compares two checkpoints on one split; returns the exit code."""
    data.check()
    paths = [checkpoint_path(args.run_a), checkpoint_path(args.run_b)]
    _check_options(args, paths)
    device = find_device(args.device)
    models, contents = zip(*(load_with_metadata(path, device_for(path, device)) for path in paths))
    for model, path in zip(models, paths):  # both before any prediction
        check_labels(model, path, data)
    split = with_pack(find_split(data, args.split or data.val_split), data)
    if not split.labelled:
        raise UserError(f"split {split.name!r} has no masks, so it can't be scored")
    console.print(f"{split.name}: read from {pixel_source(split, data)}")
    verify_masks(split)
    a, b = (predict_counts(m, path, split, data.workers) for m, path in zip(models, paths))
    result = paired_bootstrap(a, b, args.resamples, seed=args.seed)
    print_comparison(result, split.labels.names, paths)
    if args.json:
        description = result.to_dict(split.labels.names)
        for key, model, *checkpoint in zip("ab", models, paths, contents):
            shared = protocol(model, split, data, SINGLE_VIEW, tuple(checkpoint))
            description[key] |= {name: shared.pop(name) for name in MODEL_KEYS}
        shared["average"] = "one confusion matrix over the split; mean over classes in truth"
        description["protocol"] = shared
        write_json(args.json, description)
        console.print(f"{'json':10} {args.json}")
    return 0


def _check_options(args: Namespace, paths: list[Path]) -> None:
    if args.resamples < 1:
        raise UserError(f"--resamples: found {args.resamples}, expected 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed: found {args.seed}, expected 0 or more")
    if args.json:
        require_writable_path(Path(args.json))
        if Path(args.json).resolve() in [path.resolve() for path in paths]:
            raise UserError(f"--json {args.json}: is one of the compared checkpoints")


def device_for(path: Path, device: torch.device) -> torch.device:
    """The device to run a checkpoint on: the CPU for an exported model."""
    return torch.device("cpu") if is_exported(path) else device


def predict_counts(
    model: SegmentationModel, path: Path, split: Split, workers: int, views: Views = SINGLE_VIEW
) -> np.ndarray:
    """Predicts a split and counts each image with `count_image`; returns (N, 3, K) int64."""
    counts: list[np.ndarray] = []

    def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        counts.append(count_image(prediction, truth, len(model.labels)))
        bar.advance(task)

    with progress_bar() as bar:
        task = bar.add_task(f"predict {split.name} with {path}", total=len(split))
        if evaluate(model, split, workers, on_image, views) is None:
            raise UserError(f"split {split.name!r}: its masks have no labeled pixel (dummy masks)")
    return np.stack(counts)

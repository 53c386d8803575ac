"""`segcoord data suspects`: ranks the images of a split by how likely their labels are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from segcoord.config.base import split_parts
from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split, in_dataset
from segcoord.data.pack.reader import pixel_source, verify_masks, with_pack
from segcoord.data.split import Split
from segcoord.evaluation.evaluate import MORE_MEMORY, check_labels, read_pairs
from segcoord.evaluation.sheet import example
from segcoord.evaluation.suspects.contact_sheet import contact_sheet, fitted, outline
from segcoord.evaluation.suspects.options import SHEET, Options, read_options
from segcoord.evaluation.suspects.outputs import print_ranking, write_suspects
from segcoord.evaluation.suspects.ranking import Suspect, SuspectRanking
from segcoord.evaluation.suspects.regions import region_mask
from segcoord.inference.inputs import printable
from segcoord.inference.load import accelerator_for, load_with_metadata
from segcoord.inference.predict import predict, predict_probabilities
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.visualize import write_picture
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_counter
from segcoord.utils.devices import find_device
from segcoord.utils.errors import UserError, explain_out_of_memory
from segcoord.utils.provenance import origin


def run_suspects(args: Namespace, data: DataConfig) -> int:
    """Ranks the images of a split and writes the requested outputs; returns the exit code."""
    data.check()
    options = read_options(args)
    device = find_device(accelerator_for(args.checkpoint, args.device))
    model, checkpoint = load_with_metadata(args.checkpoint, device, runtime=args.runtime)
    check_labels(model, args.checkpoint, data)
    split = with_pack(find_split(data, args.split or data.train_split), data)
    _check_split(split, data, options.out)
    verify_masks(split)
    views = str(options.views)
    source = f"{split.name}: read from {pixel_source(split, data)}"
    console.print(f"{source}; {views}" if views else source)
    ranking = rank_split(model, split, data.workers, options.views)
    if not ranking.images:
        raise UserError(f"split {split.name!r}: its masks have no labeled pixel (dummy masks)")
    suspects = ranking.ranked()
    protocol = _protocol(split, data, options.views, args.checkpoint)
    (options.out / SHEET).unlink(missing_ok=True)  # of an earlier ranking
    write_suspects(options.out, ranking, suspects, split, protocol)
    _print(suspects, split)
    if _trained_on(checkpoint, data, split):
        console.print(
            "The model was trained on these labels and may have learned wrong ones "
            "(docs/suspects.md)."
        )
    for name in ("suspects.csv", "suspects.json"):
        console.print(f"{name:15} {options.out / name}")
    if suspects:
        picture = _sheet(model, split, suspects[: options.top], options)
        write_picture(options.out / SHEET, picture)
        console.print(f"{SHEET:15} {options.out / SHEET}")
    return 0


def rank_split(
    model: SegmentationModel, split: Split, workers: int, views: Views
) -> SuspectRanking:
    """Predicts every image of a split with masks and collects where its labels may be wrong.

    Args:
        model: on its device.
        split: from `find_split`, with masks.
        workers: number of processes that read files.
        views: scales, flip and tiles of each prediction.

    Raises:
        UserError: a file that can't be read, or out of memory.
    """
    ranking = SuspectRanking(model.labels.names)
    with progress_counter(f"predict {split.name}", len(split)) as update:
        update(0)
        for index, (sample, (image, mask)) in enumerate(read_pairs(split, workers)):
            with explain_out_of_memory(image.shape[:2], MORE_MEMORY, sample.image):
                classes, probabilities = predict_probabilities(model, image.numpy(), views)
            ranking.add(index, mask.numpy(), classes, probabilities)
            update(index + 1)
    return ranking


def _check_split(split: Split, data: DataConfig, out: Path) -> None:
    if not split.labelled:
        raise UserError(
            f"split {split.name!r} has no masks, so there are no labels to check; rank its images "
            "for labeling with --unlabelled DIR"
        )
    if in_dataset(data, split, out):
        raise UserError(
            f"--out {out.resolve()}: is a folder of the dataset, which would read the contact "
            "sheet as an image; choose another folder"
        )


def _protocol(split: Split, data: DataConfig, views: Views, checkpoint: str) -> dict:
    """How the ranking was made, for the JSON."""
    described = {"split": split.name, "root": data.root, "images": len(split)}
    return {"checkpoint": checkpoint, **described, **views.to_dict(), **origin()}


def _trained_on(checkpoint: dict, data: DataConfig, split: Split) -> bool:
    """Whether a checkpoint was trained on images of a split, by the settings that list them.

    The root is not compared, since a dataset may have moved.
    """
    stored = checkpoint.get("config", {}).get("data", {})
    keys = ("images", "lists", "val_fraction", "split_seed")
    if any(stored.get(key, getattr(DataConfig, key)) != getattr(data, key) for key in keys):
        return False
    trained = stored.get("train_split")
    return trained is not None and bool({*split_parts(trained)} & {*split_parts(split.name)})


def _print(suspects: Sequence[Suspect], split: Split) -> None:
    if not suspects:
        console.print(f"{len(split)} images: no region's labels contradict the prediction")
        return
    rows = [
        (
            printable(split.samples[suspect.index].stem),
            f"{suspect.score:.3f}",
            str(suspect.worst.region.area),
            suspect.worst.reason,
        )
        for suspect in suspects
    ]
    print_ranking(("image", "score", "pixels", "reason"), rows)


def _sheet(
    model: SegmentationModel, split: Split, suspects: Sequence[Suspect], options: Options
) -> np.ndarray:
    """Predicts the images again, which is cheaper than to keep the pictures of all."""
    rows = []
    for rank, suspect in enumerate(suspects, 1):
        image, labels = split.read(suspect.index)
        prediction = predict(model, image, options.views)
        mask = region_mask(suspect.worst.region, labels, prediction)
        pictures = [fitted(each) for each in example(image, prediction, labels, split.labels)]
        for picture in pictures:
            outline(picture, mask)
        name = printable(split.samples[suspect.index].stem)
        caption = f"{rank}. {name}", f"score {suspect.score:.3f}", suspect.worst.reason
        rows.append((caption, pictures))
    return contact_sheet(rows, ("image", "label", "prediction"), split.labels)

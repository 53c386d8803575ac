"""Outputs that `segcoord evaluate` and `segcoord score` share. Imports no torch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.labels import LabelSet
from segcoord.data.mask_writer import write_mask
from segcoord.data.split import Sample
from segcoord.evaluation.cityscapes import CityscapesScores
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.output_options import FILES, FOLDERS
from segcoord.evaluation.tables import print_cityscapes
from segcoord.inference.visualize import overlay, write_picture
from segcoord.utils.console import console

ImageCallback = Callable[[Sample, np.ndarray, np.ndarray, "np.ndarray | None"], None]
"""Called with a sample, its image (H, W, 3) uint8 RGB, and prediction and truth (H, W) uint8."""


def mask_writer(folder: str, labels: LabelSet, palette: bool) -> ImageCallback:
    """Writes FOLDER/STEM.png with the dataset's mask values of each prediction."""

    def write(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        write_mask(Path(folder) / f"{sample.stem}.png", prediction, labels, palette=palette)

    return write


def overlay_writer(folder: str, labels: LabelSet) -> ImageCallback:
    """Writes FOLDER/STEM.png with each prediction over its image, and a legend."""

    def write(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        write_picture(Path(folder) / f"{sample.stem}.png", overlay(image, prediction, labels))

    return write


def print_layout_scores(data: DataConfig, scores: Scores, weights: np.ndarray | None) -> dict:
    """Prints and returns the scores that only a dataset layout has, for the JSON.

    `weights` are those of `cityscapes.InstanceWeights`; None without instance files.
    """
    if data.layout != "cityscapes":
        return {}
    cityscapes = CityscapesScores(scores.confusion, weights).to_dict()
    print_cityscapes(cityscapes)
    return {"cityscapes": cityscapes}


def print_paths(args: Namespace) -> None:
    """Prints the path of each written output."""
    for option in (*FOLDERS, *FILES):
        if path := getattr(args, option, None):
            console.print(f"{option:10} {path}")

"""Predict with the image_to_mask file of an exported folder. Imports no torch, which takes seconds.

The file normalizes, pads, upsamples and takes the argmax itself.
"""

import os
from pathlib import Path

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.inference.exported import (
    DESCRIPTION,
    IMAGE_TO_MASK,
    network_file,
    read_description,
)
from segcoord.inference.sessions import Session, open_session, runtime_of
from segcoord.inference.strips import PhotoStrips
from segcoord.utils.cpu import available_cores


class MaskFile:
    """Calling it with an image (H, W, 3) uint8 RGB returns its class indices (H, W) uint8."""

    def __init__(self, session: Session, labels: LabelSet) -> None:
        self.session, self.labels = session, labels

    def __call__(self, image: np.ndarray | PhotoStrips) -> np.ndarray:
        return self.session(np.asarray(image)[None])[0].astype(np.uint8)


def open_mask_file(folder: Path, runtime: str | None) -> tuple[MaskFile, dict] | None:
    """Open the image_to_mask file of an exported folder, with the content of its segcoord.json.

    Args:
        folder: a folder written by `segcoord export`, or the path of any other model.
        runtime: a key of `sessions.RUNTIMES`; None for the format's default.

    Returns:
        None if there is no such file, or if only PyTorch can run it.

    Raises:
        UserError: the folder is damaged, or the runtime can't read its format or isn't installed.
    """
    if not (folder / DESCRIPTION).is_file():
        return None
    content = read_description(folder)
    fmt = content["export"]["format"]
    runtime = runtime_of(fmt, runtime, folder)
    path = network_file(folder, fmt, IMAGE_TO_MASK)
    if runtime == "torch" or not path.is_file():
        return None
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # of a list per level
    threads = int(first) if first.isdecimal() and int(first) else available_cores()
    labels = LabelSet.from_dict(content["model"]["labels"])
    return MaskFile(open_session(path, runtime, threads), labels), content

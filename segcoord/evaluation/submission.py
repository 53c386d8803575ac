"""Submission archives for the official evaluation servers of test splits without public labels.

Pascal VOC: development kit of 2012, section 5.3 (Submission of Results) and VOCcode/VOCinit.m:
palette PNGs results/VOC2012/Segmentation/comp6_SPLIT_cls/STEM.png in a tar. The comp6 competition
allows training data besides VOC's, such as ImageNet for pretrained encoders.

Cityscapes: cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py (getPrediction): PNGs of
label ids at the original image size, CITY_SEQUENCE_FRAME*.png anywhere in a zip.
"""

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from segcoord.data.labels import VOC
from segcoord.data.mask_writer import mask_image
from segcoord.data.split import Sample, Split
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

AddPrediction = Callable[[Sample, np.ndarray], None]
"""Called with a sample and its (H, W) uint8 class indices."""

SERVERS = {"voc-server": ("voc", ".tar"), "cityscapes-server": ("cityscapes", ".zip")}
"""Name -> dataset layout and suffix of the archive."""

TEST_IMAGES = {"voc-server": 1456, "cityscapes-server": 1525}
CITYSCAPES_SIZE = (1024, 2048)
_CITYSCAPES_STEM = re.compile(r"[^_]+_\d{6}_\d{6}_leftImg8bit")


def check_server(server: str, path: Path, split: Split, layout: str) -> str | None:
    """Checks what the server would reject, as far as possible before predicting.

    Returns:
        A warning if the split is not the server's whole test split, else None.

    Raises:
        UserError: an unknown server, another dataset layout or other classes, an archive with
            another suffix, a file name that the official reader can't parse.
    """
    if server not in SERVERS:
        raise UserError(f"--export: found {server!r}, expected {' or '.join(SERVERS)}")
    expected, suffix = SERVERS[server]
    if layout != expected:
        raise UserError(f"--export {server}: expected data.layout {expected}, found {layout}")
    if server == "voc-server" and split.labels.classes != VOC.classes:
        raise UserError(
            f"--export {server}: expected Pascal VOC's 21 classes, found {len(split.labels)} of "
            f"data.classes ({', '.join(split.labels.names[:3])}, ...)"
        )
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: expected a name ending in {suffix} for {server}")
    if server == "cityscapes-server":
        for sample in split.samples:
            if not _CITYSCAPES_STEM.fullmatch(sample.stem):
                raise UserError(
                    "the server can't parse this file name; expected "
                    "CITY_SEQUENCE_FRAME_leftImg8bit.png with six digits each",
                    path=sample.image,
                )
    if split.name == "test" and len(split) == TEST_IMAGES[server]:
        return None
    return (
        f"The server scores the test split of {TEST_IMAGES[server]} images; {path.name} has the "
        f"{len(split)} images of {split.name}."
    )


@contextmanager
def server_archive(server: str, path: Path, split: Split) -> Iterator[AddPrediction]:
    """Yields a callback that adds a prediction; the archive only appears under its name on success.

    The same predictions in the same order give the same bytes.

    Args:
        server: a key of SERVERS; check all arguments with `check_server` first.
        path: of the archive.
        split: the predicted split.

    Raises:
        UserError: the archive can't be written; for Cityscapes, a prediction with another size.
    """
    with atomic_write(path) as temporary:
        if server == "voc-server":
            with tarfile.open(temporary, "w") as archive:
                yield partial(_add_voc, archive, split)
        else:
            with zipfile.ZipFile(temporary, "w") as archive:
                yield partial(_add_cityscapes, archive, split)


def _add_voc(archive: tarfile.TarFile, split: Split, sample: Sample, indices: np.ndarray) -> None:
    folder = f"results/VOC2012/Segmentation/comp6_{split.name}_cls"
    content = _png(indices, split, palette=True)
    entry = tarfile.TarInfo(f"{folder}/{sample.stem}.png")  # dated 1970
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_cityscapes(
    archive: zipfile.ZipFile, split: Split, sample: Sample, indices: np.ndarray
) -> None:
    if indices.shape != CITYSCAPES_SIZE:
        height, width = indices.shape
        raise UserError(
            f"is {width}x{height}; the server only takes predictions for the original images of "
            "2048x1024.",
            path=sample.image,
            remedy="Set data.root to the original dataset.",
        )
    entry = zipfile.ZipInfo(f"{sample.stem}.png")  # dated 1980
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, _png(indices, split, palette=False))


def _png(indices: np.ndarray, split: Split, palette: bool) -> bytes:
    content = io.BytesIO()
    # Use the split's label ids: a sample's labels have train ids if its mask has them.
    mask_image(indices, split.labels, palette).save(content, format="PNG")
    return content.getvalue()

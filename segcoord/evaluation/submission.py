"""Archives that the official evaluation servers take, for test splits whose labels nobody has.

Pascal VOC: development kit of 2012, section 5.3 (Submission of Results) and VOCcode/VOCinit.m:
palette PNGs results/VOC2012/Segmentation/comp6_SPLIT_cls/STEM.png in a tar. comp6 is the
competition that allows data besides VOC's own, as ImageNet, from which encoders start.

Cityscapes: cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py (getPrediction): PNGs of
label ids at the images' full size, CITY_SEQUENCE_FRAME*.png anywhere in a zip.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segcoord.data.labels import VOC
from segcoord.data.mask_files import mask_image
from segcoord.data.split import Sample, Split
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

Add = Callable[[Sample, np.ndarray], None]
"""Takes a sample and its (H, W) uint8 class indices."""

SERVERS = {"voc-server": ("voc", ".tar"), "cityscapes-server": ("cityscapes", ".zip")}
"""Name -> the layout that it is for, and the archive's suffix."""

TEST_IMAGES = {"voc-server": 1456, "cityscapes-server": 1525}
CITYSCAPES_SIZE = (1024, 2048)
_CITYSCAPES_STEM = re.compile(r"[^_]+_\d{6}_\d{6}_leftImg8bit")


def check_server(server: str, path: Path, split: Split, layout: str) -> str | None:
    """Refuses what the server would refuse, as far as it shows before predicting.

    Returns:
        What to tell of a split that is not the server's whole test split.

    Raises:
        UserError: an unknown server, another dataset's layout or classes, an archive of another
            kind, a name that the official reader does not find.
    """
    if server not in SERVERS:
        raise UserError(f"--export: found {server!r}, expected {' or '.join(SERVERS)}")
    expected, suffix = SERVERS[server]
    if layout != expected:
        raise UserError(f"--export {server}: takes data.layout {expected}, found {layout}")
    if server == "voc-server" and split.labels.classes != VOC.classes:
        raise UserError(
            f"--export {server}: takes Pascal VOC's 21 classes, found {len(split.labels)} of "
            f"data.classes ({', '.join(split.labels.names[:3])}, ...)"
        )
    if path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: expected a name that ends in {suffix}, for {server}")
    if server == "cityscapes-server":
        for sample in split.samples:
            if not _CITYSCAPES_STEM.fullmatch(sample.stem):
                raise UserError(
                    "the server does not find such a name; expected "
                    "CITY_SEQUENCE_FRAME_leftImg8bit.png with six digits each",
                    path=sample.image,
                )
    if split.name == "test" and len(split) == TEST_IMAGES[server]:
        return None
    return (
        f"The server scores the test split of {TEST_IMAGES[server]} images; {path.name} is of "
        f"{split.name}, {len(split)} images."
    )


@contextmanager
def server_archive(server: str, path: Path, split: Split) -> Iterator[Add]:
    """Yields what adds predictions; the archive appears under its name when all went well.

    The same predictions in the same order make the same bytes.

    Args:
        server: of SERVERS.
        path: of the archive, as all of these checked by `check_server`.
        split: that is predicted.

    Raises:
        UserError: the archive can't be written; for Cityscapes, a prediction of another size.
    """
    with atomic_write(path) as temporary:
        if server == "voc-server":
            with tarfile.open(temporary, "w") as archive:
                yield lambda *one: _add_voc(archive, split, *one)
        else:
            with zipfile.ZipFile(temporary, "w") as archive:
                yield lambda *one: _add_cityscapes(archive, split, *one)


def _add_voc(archive: tarfile.TarFile, split: Split, sample: Sample, indices: np.ndarray) -> None:
    folder = f"results/VOC2012/Segmentation/comp6_{split.name}_cls"
    content = _png(indices, split, palette=True)
    entry = tarfile.TarInfo(f"{folder}/{sample.stem}.png")  # of 1970, as all of them
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _add_cityscapes(
    archive: zipfile.ZipFile, split: Split, sample: Sample, indices: np.ndarray
) -> None:
    if indices.shape != CITYSCAPES_SIZE:
        height, width = indices.shape
        raise UserError(
            f"is {width}x{height}; the server takes predictions for Cityscapes' own images alone, "
            "of 2048x1024.",
            path=sample.image,
            remedy="Set data.root to the original dataset.",
        )
    entry = zipfile.ZipInfo(f"{sample.stem}.png")  # of 1980, as all of them
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, _png(indices, split, palette=False))


def _png(indices: np.ndarray, split: Split, palette: bool) -> bytes:
    content = io.BytesIO()
    # The split's numbering: that of a sample may be the train ids', if its mask has those.
    mask_image(indices, split.labels, palette).save(content, format="PNG")
    return content.getvalue()

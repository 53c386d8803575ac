"""Check a single image and its mask, from their files or from a pack."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from segcoord.data import image_io
from segcoord.data.color_table import Color
from segcoord.data.mask_reader import count_mask
from segcoord.data.orientation import Exif
from segcoord.data.pack.reader import Pack, damaged_pack
from segcoord.data.pairing import is_own_mask, own_mask_error
from segcoord.data.split import Sample, Split
from segcoord.utils.errors import UserError


@dataclass
class SampleCheck:
    """Contents of one sample."""

    size: tuple[int, int] | None = None  # (H, W); None if unreadable
    orientation: int = 1  # EXIF orientation
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # by class index
    values: list[int | Color] = field(default_factory=list)  # as in `MaskCounts`; empty with a pack
    palette_by: str | None = None  # as in `MaskCounts`; None with a pack
    transparent: bool = False  # whether pixels are transparent
    digest: bytes | None = None  # of the decoded image; None if unreadable or not requested
    difference_hash: bytes | None = None  # as in `difference_hash`; None like the digest
    errors: list[UserError] = field(default_factory=list)  # that make the sample unusable


def inspect_sample(split: Split, index: int, decode_image: bool = False) -> SampleCheck:
    """Check an image as `inspect_image` does, and decode its mask. A pack is read without images.

    `decode_image` is for a split without a pack.
    """
    sample = split.samples[index]
    if split.pack is not None:
        return _inspect_packed(sample, split.pack, index)
    check = inspect_image(sample.image, decode_image, split.exif)
    if sample.mask is not None and is_own_mask(sample.image, sample.mask):
        check.errors.append(own_mask_error(sample.image))
    elif sample.mask is not None:
        try:
            counts = count_mask(sample.mask, sample.labels, check.size)
            check.counts, check.values, check.palette_by = counts
        except UserError as error:
            check.errors.append(error)
    return check


def inspect_image(path: Path, decode: bool = False, exif: Exif = "ignore") -> SampleCheck:
    """Check the header and the end of an image; decode it if it may be truncated or transparent.

    With `decode`, it is always decoded, which finds damage inside it, and its pixels are digested.
    """
    check = SampleCheck()
    try:
        header = image_io.read_header(path, exif)
        check.size, check.orientation = header.size, header.orientation
        if decode:
            image, check.transparent = image_io.decode_image(path, strict=True, exif=exif)
            check.size = image.shape[:2]
            # Includes the shape: the same bytes can be an image of another width.
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image))
            check.digest = digest.digest()
            check.difference_hash = difference_hash(image)
        elif header.alpha or not header.complete:
            check.transparent = image_io.decode_image(path, exif=exif).transparent
    except UserError as error:
        check.errors.append(error)
    return check


def difference_hash(image: np.ndarray) -> bytes:
    """256 bits that similar images share: is a pixel of a 16x16 thumbnail brighter than the next?

    Source: Krawetz, "Kind of Like That", hackerfactor.com, 2013, there with 64 bits.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    step = max(1, min(image.shape[:2]) // 64)  # averaging all pixels takes half as long as decoding
    gray = cv2.cvtColor(np.ascontiguousarray(image[::step, ::step]), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, :-1] > small[:, 1:]).tobytes()


def _inspect_packed(sample: Sample, pack: Pack, index: int) -> SampleCheck:
    """Use the pack's index, after verifying the mask: a damaged one would train silently."""
    check = SampleCheck(tuple(pack.sizes[index].tolist()), int(pack.orientations[index]))
    check.transparent = bool(pack.transparent[index])
    if pack.labelled and pack.damaged(index, masks_alone=True):
        check.errors.append(damaged_pack(pack, sample))
    elif pack.labelled:
        check.counts = pack.counts(index)
    return check

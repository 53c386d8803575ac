"""Read large photos in strips of rows, so that their pixels are never in memory all at once.

PNG and TIFF allow it. Each strip is written to a small file of the same kind in memory, which the
ordinary decoder reads: a strip or tile of a TIFF is an image of its own, and a row of a PNG needs
only the row above it. JPEG and other formats, interlaced PNGs, and files that are not 8 bits deep
or not upright are read as a whole.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL import TiffImagePlugin as tiff

from segcoord.data.corruption import damaged_error
from segcoord.data.image_io import on_white
from segcoord.data.orientation import exif_orientation
from segcoord.inference.photo import WHITE_NOTE, Photo, decode_photo, known_formats, read_photo

MIN_PIXELS = 2**26  # of a photo: smaller ones are read as a whole
STRIP = 2**22  # pixels of a PNG that are decoded at a time
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_T4_OPTIONS, _T6_OPTIONS = 292, 293  # tags that Pillow has no names for
_YCBCR_COEFFICIENTS, _YCBCR_POSITIONING = 529, 531
_COPIED_TAGS = (
    *(tiff.BITSPERSAMPLE, tiff.COMPRESSION, tiff.PHOTOMETRIC_INTERPRETATION, tiff.FILLORDER),
    *(tiff.SAMPLESPERPIXEL, tiff.PLANAR_CONFIGURATION, _T4_OPTIONS, _T6_OPTIONS, tiff.PREDICTOR),
    *(tiff.COLORMAP, tiff.EXTRASAMPLES, tiff.SAMPLEFORMAT, tiff.JPEGTABLES, _YCBCR_COEFFICIENTS),
    *(tiff.YCBCRSUBSAMPLING, _YCBCR_POSITIONING, tiff.REFERENCEBLACKWHITE),
)


class PhotoStrips:
    """A photo whose rows are decoded when they are needed, in ascending order.

    Indexing with two slices gives an array (rows, columns, 3) uint8 RGB. Rows before those that
    were asked for last are forgotten; asking for them again decodes the file from its beginning.

    Args:
        size: (H, W).
        strips: starts decoding; yields photos of (n, W, 3) pixels from top to bottom.

    Attributes:
        notes: those of the strips that were decoded so far.
    """

    def __init__(self, size: tuple[int, int], strips: Callable[[], Iterator[Photo]]) -> None:
        self.shape = (*size, 3)
        self.dtype, self.ndim, self.size = np.dtype(np.uint8), 3, 3 * size[0] * size[1]
        self.notes: list[str] = []
        self._start_decoding = strips
        self._restart()

    def _restart(self) -> None:
        self._strips = map(self._pixels, self._start_decoding())
        self._kept: list[tuple[int, np.ndarray]] = []  # first row and pixels
        self._next = 0  # the first row that is not decoded yet

    def _pixels(self, strip: Photo) -> np.ndarray:
        self.notes += [note for note in strip.notes if note not in self.notes]
        return strip.pixels

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        (start, stop, _), columns = key[0].indices(self.shape[0]), key[1]
        if start < (self._kept[0][0] if self._kept else self._next):
            self._restart()
        self._kept = [(row, x) for row, x in self._kept if row + len(x) > start]
        while self._next < stop:
            strip = next(self._strips)
            if self._next + len(strip) > start:
                self._kept.append((self._next, strip))
            self._next += len(strip)
        parts = [x[max(0, start - row) : max(0, stop - row), columns] for row, x in self._kept]
        return np.concatenate(parts)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        pixels = np.empty(self.shape, np.uint8)
        self._restart()
        row = 0
        for strip in self._strips:
            pixels[row : row + len(strip)] = strip
            row += len(strip)
        self._restart()
        return pixels

    def reduced(self, longest: int) -> np.ndarray:
        """The photo with every k x k pixels averaged, at least `longest` pixels long."""
        height, width = self.shape[:2]
        k = max(1, max(height, width) // longest)
        step = k * max(1, STRIP // (k * width))
        parts = []
        for start in range(0, height, step):
            rows = self[start : min(start + step, height), :]
            size = max(1, width // k), -(-len(rows) // k)
            parts.append(cv2.resize(rows, size, interpolation=cv2.INTER_AREA))
        self._restart()
        return np.concatenate(parts)


def open_photo(path: Path) -> Photo:
    """`read_photo`, but the pixels of a large photo are `PhotoStrips` if its format allows it.

    The notes of such a photo are complete once all its rows are decoded, and damage is an error
    when the damaged rows are.
    """
    strips = _open_strips(path)
    return read_photo(path) if strips is None else Photo(strips, strips.notes)


def _open_strips(path: Path) -> PhotoStrips | None:
    """None for a small photo, another format, and a file for which `read_photo` raises an error."""
    try:
        with Image.open(path, formats=known_formats()) as header:
            size, orientation = header.size[::-1], exif_orientation(header)
            if header.width * header.height < MIN_PIXELS or orientation != 1:
                return None
            if header.format == "PNG":
                return _open_png(path, size)
            if header.format == "TIFF" and getattr(header, "n_frames", 1) == 1:
                return _open_tiff(path, size, dict(header.tag_v2), header.tag_v2.prefix)
    except Exception:  # Pillow raises many types for damaged files
        return None
    return None


def _open_png(path: Path, size: tuple[int, int]) -> PhotoStrips | None:
    with path.open("rb") as file:
        file.seek(24)
        depth, color, _, _, interlaced = file.read(5)
    if depth != 8 or interlaced:
        return None
    return PhotoStrips(size, lambda: _png_strips(path, size, color))


def _png_strips(path: Path, size: tuple[int, int], color: int) -> Iterator[Photo]:
    """PNG specification, sections 5 and 9: filtered rows, each after its filter type."""
    height, width = size
    length = 1 + width * _PNG_CHANNELS[color]
    rows_at_once = max(1, STRIP // width)
    before, above, data = b"", b"", bytearray()  # chunks before the pixels; row above; rows
    decompressor, left = zlib.decompressobj(), height
    for kind, content in _png_chunks(path):
        if kind != b"IDAT":
            if kind in (b"PLTE", b"tRNS"):
                before += _chunk(kind, content)
            continue
        for start in range(0, len(content), 2**16):
            try:
                data += decompressor.decompress(content[start : start + 2**16])
            except zlib.error as error:
                raise damaged_error(path, error) from error
            while left and len(data) >= length * min(rows_at_once, left):
                count = min(rows_at_once, left)
                rows = bytes(data[: length * count])
                del data[: length * count]
                ihdr = struct.pack(">IIBBBBB", width, count + bool(above), 8, color, 0, 0, 0)
                idat = zlib.compress((b"\0" + above if above else b"") + rows, 0)
                chunks = _chunk(b"IHDR", ihdr) + before + _chunk(b"IDAT", idat)
                image = Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")))
                image.load()
                first = int(bool(above))
                above = image.crop((0, image.height - 1, width, image.height)).tobytes()
                left -= count
                opaque, transparent = on_white(image)
                pixels = np.asarray(opaque.convert("RGB"))[first:]
                yield Photo(pixels, (WHITE_NOTE,) if transparent else ())
    if left:
        raise damaged_error(path, f"its last {left} rows are missing")


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk, after its checksum was verified."""
    with path.open("rb") as file:
        file.seek(8)
        kind = b""
        while kind != b"IEND":
            head = file.read(8)
            content = file.read(int.from_bytes(head[:4], "big"))
            kind, checksum = head[4:], file.read(4)
            if len(checksum) < 4:
                raise damaged_error(path, "its end is missing")
            if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
                raise damaged_error(path, f"wrong checksum in chunk {kind.decode('latin-1')!r}")
            yield kind, content


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _open_tiff(path: Path, size: tuple[int, int], tags: dict, prefix: bytes) -> PhotoStrips | None:
    bits = tags.get(tiff.BITSPERSAMPLE, (1,))
    tiled = tiff.TILEWIDTH in tags
    one_strip = not tiled and len(tags[tiff.STRIPOFFSETS]) == 1
    if one_strip and tags.get(tiff.COMPRESSION, 1) == 1:  # uncompressed: cut it here
        rows, row_bytes = max(1, STRIP // size[1]), size[1] * len(bits)
        starts = range(0, size[0], rows)
        lengths = [min(rows, size[0] - start) * row_bytes for start in starts]
        offsets = [tags[tiff.STRIPOFFSETS][0] + start * row_bytes for start in starts]
        tags = tags | {
            tiff.STRIPOFFSETS: offsets,
            tiff.ROWSPERSTRIP: rows,
            tiff.STRIPBYTECOUNTS: lengths,
        }
    rows = tags[tiff.TILELENGTH] if tiled else tags.get(tiff.ROWSPERSTRIP, size[0])
    if {*bits} != {8} or tags.get(tiff.PLANAR_CONFIGURATION, 1) != 1 or rows * size[1] > MIN_PIXELS:
        return None
    return PhotoStrips(size, lambda: _tiff_strips(path, size, tags, prefix))


def _tiff_strips(path: Path, size: tuple[int, int], tags: dict, prefix: bytes) -> Iterator[Photo]:
    """TIFF 6.0, sections 3 and 15: strips of full width, or rows of tiles."""
    height, width = size
    tiled = tiff.TILEWIDTH in tags
    if tiled:
        block = tags[tiff.TILELENGTH], tags[tiff.TILEWIDTH]
        offsets, counts = tags[tiff.TILEOFFSETS], tags[tiff.TILEBYTECOUNTS]
    else:
        block = min(tags.get(tiff.ROWSPERSTRIP, height), height), width
        offsets, counts = tags[tiff.STRIPOFFSETS], tags[tiff.STRIPBYTECOUNTS]
    across = -(-width // block[1])
    with path.open("rb") as file:
        for i in range(-(-height // block[0])):
            parts = []
            rows = min(block[0], height - i * block[0])
            for j in range(i * across, (i + 1) * across):
                file.seek(offsets[j])
                raw = file.read(counts[j])
                block_rows = block[0] if tiled else rows
                mini = _tiff(raw, (block_rows, block[1]), tags, prefix)
                parts.append(decode_photo(mini, path))
            pixels = np.concatenate([part.pixels[:rows] for part in parts], axis=1)[:, :width]
            yield Photo(pixels, tuple({note: None for part in parts for note in part.notes}))


def _tiff(raw: bytes, size: tuple[int, int], tags: dict, prefix: bytes) -> bytes:
    """A TIFF of a single strip."""
    header = (b"II*\0" if prefix == b"II" else b"MM\0*") + struct.pack(
        "<I" if prefix == b"II" else ">I", 8
    )
    directory = tiff.ImageFileDirectory_v2(header)
    for number in _COPIED_TAGS:
        if number in tags:
            directory[number] = tags[number]
    directory[tiff.IMAGEWIDTH] = size[1]
    directory[tiff.IMAGELENGTH] = directory[tiff.ROWSPERSTRIP] = size[0]
    directory[tiff.STRIPOFFSETS], directory[tiff.STRIPBYTECOUNTS] = 0, len(raw)
    return header + directory.tobytes(len(header)) + raw

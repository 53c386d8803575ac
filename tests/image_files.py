"""Files of images and masks for the tests of their readers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.data.labels import VOC

PNG_END = 12 + 4 + 4  # the IEND chunk, and the two checksums before it


def encode(image: Image.Image | np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, **options)
    return buffer.getvalue()


def write(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def palette_mask(values: np.ndarray) -> Image.Image:
    """Like VOC's own masks: indices into the VOC color map."""
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(VOC.colors.tobytes())
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_by_hand(
    width: int, height: int, depth: int, color_type: int, raw: bytes, between: bytes = b""
) -> bytes:
    """A PNG that Pillow can't write, with a chunk between two parts of the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = zlib.compress(raw)
    parts = chunk(b"IDAT", data[:5]), between, chunk(b"IDAT", data[5:]), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(parts)


def cuts(raw: bytes) -> Iterator[bytes]:
    """Truncate a file at every byte near its end, and at some before."""
    for length in sorted({*range(0, len(raw), 23), *range(len(raw) - 40, len(raw))}):
        yield raw[:length]

"""Pictures as data URIs, for pages that load no other file."""

import base64
import io
from collections.abc import Callable

import numpy as np
from PIL import Image


def data_uri(save: Callable, kind: str, **options: object) -> str:
    """Encode a picture; `save` is the method of a PIL image, or `savefig` of a matplotlib figure.

    Args:
        save: called with a file, `format=kind` and the options.
        kind: such as png, webp or svg.
        options: of `save`.
    """
    file = io.BytesIO()
    save(file, format=kind, **options)
    mime = {"svg": "svg+xml"}.get(kind, kind)
    return f"data:image/{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def palette_png(indices: np.ndarray, colors: np.ndarray, transparent: int) -> str:
    """Encode a map of indices as a palette PNG.

    Args:
        indices: (H, W) uint8.
        colors: (N, 3) uint8 RGB of the indices.
        transparent: index without a color.
    """
    picture = Image.fromarray(indices)
    picture.putpalette(colors.tobytes())
    return data_uri(picture.save, "png", optimize=True, transparency=transparent)

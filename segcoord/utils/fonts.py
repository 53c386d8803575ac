"""Fonts for the names that pictures and figures show, in any script.

Pillow's own font covers Latin letters, matplotlib's DejaVu Sans also Greek, Cyrillic and others.
For the rest, such as Chinese, a font of the system is searched.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import ImageFont

from segcoord.utils.console import console
from segcoord.utils.text import join_first

_STYLES = re.compile("bold|italic|oblique|serif|mono|light|black|thin|heavy|condensed", re.I)
_reported: set[str] = set()


def load_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font for drawing `text` with Pillow.

    Args:
        text: one line.
        size: in pixels.
    """
    path, _ = _font_with(_characters(text), None)
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@contextmanager
def figure_fonts(texts: Iterable[str]) -> Iterator[None]:
    """Context in which matplotlib draws figures with the characters of `texts`.

    Prints `warn_of_missing_fonts` for them.
    """
    import matplotlib
    from matplotlib.font_manager import FontProperties, fontManager

    texts, families = [*texts], [*matplotlib.rcParams["font.family"]]
    warn_of_missing_fonts(texts)
    for path in dict.fromkeys(_font_with(_characters(text), _dejavu())[0] for text in texts):
        if path is None or path == _dejavu():
            continue
        if all(font.fname != path for font in fontManager.ttflist):
            fontManager.addfont(path)
        families.append(FontProperties(fname=path).get_name())
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # reported above
        yield


def warn_of_missing_fonts(names: Iterable[str]) -> None:
    """Print one warning that lists the names with characters of no font, each name once."""
    new = [name for name in names if name not in _reported]
    _reported.update(new)
    if missing := [name for name in new if _font_with(_characters(name), None)[1]]:
        console.print(
            f"No font of this system can draw {join_first(missing, 10)}; pictures show a box for "
            "each missing character. Install a font that has them, such as Noto Sans (CJK).",
            style="yellow",
            markup=False,
        )


def _characters(text: str) -> frozenset[str]:
    return frozenset(c for c in text if c.isprintable() and not c.isspace())


@cache
def _font_with(
    characters: frozenset[str], default: str | None
) -> tuple[str | None, frozenset[str]]:
    """The path of a font with all characters, or with most of them, and those that it lacks.

    Args:
        characters: to draw.
        default: path of the font to prefer, also to others that lack as many; None for Pillow's.
    """
    best, missing = default, _missing(characters, default)
    for path in _candidates() if missing else ():
        if len(lacking := _missing(characters, path)) < len(missing):
            best, missing = path, lacking
        if not missing:
            break
    return best, missing


def _missing(characters: frozenset[str], path: str | None) -> frozenset[str]:
    """The characters that a font lacks; all of them if it can't be read."""
    if path is None and all(c.isascii() for c in characters):
        return frozenset()  # without the import
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(ImageFont.load_default(10).path if path is None else path)
    except (RuntimeError, OSError):
        return characters
    return frozenset(c for c in characters if not font.get_char_index(ord(c)))


def _candidates() -> list[str]:
    """DejaVu Sans, then the fonts of the system, plain styles first."""
    from matplotlib.font_manager import findSystemFonts

    fonts = sorted(
        findSystemFonts(), key=lambda path: (len(_STYLES.findall(Path(path).stem)), path)
    )
    return [_dejavu(), *fonts]


@cache
def _dejavu() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))

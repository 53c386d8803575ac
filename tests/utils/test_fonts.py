"""Names in any script are drawn with a font that has their characters."""

from __future__ import annotations

from pathlib import Path

import matplotlib.font_manager
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import ImageFont

from segcoord.data.labels import LabelClass, LabelSet
from segcoord.inference.visualize import legend
from segcoord.utils import fonts

ROAD = "道路"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only font of the system: filled squares for the characters of ROAD."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(c): "square" for c in ROAD})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: [str(path)])
    manager = matplotlib.font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [*manager.ttflist])
    monkeypatch.setattr(fonts, "_reported", set())
    fonts._font_with.cache_clear()
    yield path
    fonts._font_with.cache_clear()


def figure_ink(text: str) -> np.ndarray:
    """(80, 160) bool, where matplotlib draws the text."""
    with fonts.figure_fonts(["road", text]):
        figure = Figure((1.6, 0.8), dpi=100)
        figure.text(0.1, 0.3, text, size=20)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., 0] < 128


def test_each_name_gets_a_font_that_has_it(system: Path) -> None:
    assert fonts.load_font("road 1", 14).getname() == ImageFont.load_default(14).getname()
    assert Path(fonts.load_font("дорога", 14).path).name == "DejaVuSans.ttf"
    assert fonts.load_font(ROAD, 14).path == str(system)
    assert fonts.load_font(ROAD, 20).getmask(ROAD).size == (40, 18)


def test_legend_and_figure_draw_the_characters(system: Path, capsys, recwarn) -> None:
    labels = LabelSet([LabelClass(ROAD, (255, 255, 255), 0)])
    strip = legend(labels, [0], 120, 20)[..., 0]
    assert (strip[:, 35:] < 128).sum() == pytest.approx(2 * 18 * 18, rel=0.1)
    ink = figure_ink(ROAD)
    assert ink.sum() == pytest.approx(2 * (0.9 * 20 / 72 * 100) ** 2, rel=0.1)
    assert figure_ink("дорога").any()
    assert capsys.readouterr().out == ""
    assert not recwarn.list


def test_names_of_no_font_are_reported_once_and_together(system: Path, capsys, recwarn) -> None:
    names = [ROAD, "街 road", "town", "街路"]
    labels = LabelSet([LabelClass(name, (0, 0, 0), n) for n, name in enumerate(names)])
    for shown in ([1], [0, 3]):
        legend(labels, shown, 120, 20)
        figure_ink("街路")
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("No font") == 1
    assert "No font of this system can draw 街 road, 街路; pictures show a box" in printed
    assert not recwarn.list

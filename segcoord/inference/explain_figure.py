"""Where a model looks: Grad-CAM and the gates of its attention, as one picture.

After figure 4 of Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design",
CVPR 2021. Grad-CAM is Selvaraju et al., ICCV 2017, as the package grad-cam computes it; that is an
optional dependency and imported late.

Shapes: H and W of the image, h and w of a block's grid, C its channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segcoord.inference.explain import Explanation, _class_index, _package, explain, grad_cam
from segcoord.inference.visualize import INK, PAPER, blend, legend
from segcoord.models.segmentation import SegmentationModel

_LONGEST, _SHORTEST = 480, 280  # a picture's longer side in its cell; captions need the latter
_TITLES = ("image", "prediction", "Grad-CAM: {}", "a_h, by row", "a_w, by column", "both, by place")
_GREY, _BLANK = (112, 112, 112), (244, 244, 244)
_FLAT = 1e-6  # what differs by less is float32's rounding, and a colour scale would magnify it
_Scale = tuple[float, float, int]  # the values at a colormap's ends, and which it is


@dataclass(frozen=True)
class Cell:
    """A picture with a caption, or the caption in its place."""

    caption: str
    picture: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    scale: _Scale | None = None


def draw_attention(
    models: Sequence[tuple[str, SegmentationModel]],
    image: np.ndarray,
    class_name: str | None = None,
    block: str | None = None,
) -> np.ndarray:
    """A row for each model: image, prediction, Grad-CAM, and the gates of its attention.

    The maps of gates are means over the channels, each with its own colour scale, whose ends are
    written below it. The models are left as they are.

    Args:
        models: what to call each, and the model.
        image: (H, W, 3) uint8 RGB of any size, shown with its longer side in 280..480 pixels.
        class_name: for Grad-CAM; unless given, what the first model predicts for most pixels.
        block: a name of `blocks` that every encoder has; unless given, each model's last block with
            attention, and of one without any its last block.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UserError: a class or a block that a model doesn't have, grad-cam not installed.
        ValueError: no model, or an image of another shape or dtype.
    """
    if not models:
        raise ValueError("expected one model or more, found none")
    _package()
    if class_name is not None:
        for name, model in models:
            _class_index(name, model, class_name)
    rows = [explain(name, model, image, block) for name, model in models]
    if class_name is None:
        most = int(np.bincount(rows[0].prediction.ravel()).argmax())
        class_name = rows[0].model.labels.names[most]
    page = _Page(*image.shape[:2])
    strips = [page.titles([title.format(class_name) for title in _TITLES])]
    for labels, alike in groupby(rows, key=lambda row: row.model.labels):
        shown: set[int] = set()
        for row in alike:
            strips.append(page.header(row.name, row.details))
            strips.append(page.cells(_cells(row, image, class_name)))
            shown.update(np.unique(row.prediction).tolist())
        strips.append(legend(labels, sorted(shown), page.width, page.size))
    return np.concatenate(strips)


def _cells(row: Explanation, image: np.ndarray, class_name: str) -> list[Cell]:
    """The cells of a row, in the order of the titles."""
    index = _class_index(row.name, row.model, class_name)
    height, width = image.shape[:2]
    pixels = row.prediction == index
    share = f"{class_name}: {100 * pixels.mean():.3g} % of the pixels"
    of = "for its logits where predicted"
    if not pixels.any():
        of = "not predicted: for its mean logit"
        pixels[:] = True  # the sum, for Grad-CAM's scaling makes one picture of sum and mean
    cam = grad_cam(row.model, image, index, row.block, pixels)
    turbo = (0.0, 1.0, cv2.COLORMAP_TURBO)
    heat = cv2.addWeighted(colored(cam, *turbo), 0.5, image, 0.5, 0)
    return [
        Cell(f"{width}x{height}", image),
        Cell(share, blend(image, row.prediction, row.model.labels)),
        Cell(of, heat, turbo) if cam.any() else Cell(f"{of}\nzero everywhere"),
        *gate_cells(row, height, width),
    ]


def gate_cells(row: Explanation, height: int, width: int) -> list[Cell]:
    """Three cells: a_h, a_w, and what gates each place of the image."""
    places = {key: gate for key, gate in row.gates.items() if key != "channel"}
    mean = f"mean of {row.grid[0]} channels"
    padded = row.model.padded_size(height, width)[::-1]

    def cell(gate: np.ndarray, caption: str) -> Cell:
        grid = np.broadcast_to(gate.mean(0), row.grid[1:])  # it covers the model's padding too
        values = cv2.resize(grid, padded, interpolation=cv2.INTER_NEAREST_EXACT)[:height, :width]
        scale = (float(values.min()), float(values.max()), cv2.COLORMAP_VIRIDIS)
        return Cell(caption, colored(values, *scale), scale)

    none = Cell("no gate")
    both = none
    if places:
        how = "one for all channels" if "spatial" in places else mean
        both = cell(reduce(np.multiply, places.values()), f"{' x '.join(places)}, {how}")
    elif "channel" in row.gates:
        ends = _ends(row.gates["channel"].min(), row.gates["channel"].max())
        both = Cell(f"{row.kind}: one value per channel,\n{' to '.join(ends)}")
    elif row.kind:
        both = Cell(f"{row.kind}:\nits gates are not known")
    return [*(cell(places[k], mean) if k in places else none for k in ("a_h", "a_w")), both]


def _ends(low: float, high: float) -> tuple[str, str]:
    """Both ends of a range, with the digits that tell them apart."""
    digits = max(2, 1 - math.floor(math.log10(max(high - low, _FLAT))))
    return f"{low:.{digits}f}", f"{high:.{digits}f}"


def colored(values: np.ndarray, low: float, high: float, colormap: int) -> np.ndarray:
    """(H, W) float32 -> (H, W, 3) uint8 RGB; a flat map is all the scale's middle."""
    share = (values - low) / (high - low) if high - low > _FLAT else np.full_like(values, 0.5)
    codes = (255 * share.clip(0, 1)).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(codes, colormap), cv2.COLOR_BGR2RGB)


def _fitted(text: str, width: float, pen: ImageDraw.ImageDraw) -> str:
    """The text, or as much of its end as fits: a path's end tells more than its beginning."""
    if pen.textlength(text) <= width:
        return text
    while text and pen.textlength(f"...{text}") > width:
        text = text[1:]
    return f"...{text}"


class _Page:
    """The layout for images of a size. A strip is as wide as the page, (h, width, 3) uint8."""

    def __init__(self, height: int, width: int) -> None:
        longest = max(height, width)
        factor = min(max(_SHORTEST, longest), _LONGEST) / longest
        self.picture = (max(1, round(width * factor)), max(1, round(height * factor)))
        across = max(_SHORTEST, self.picture[0])
        self.size = across // 20  # of the letters: some 38 fit into a cell
        self.cell = (across, max(4 * self.size, self.picture[1]))
        self.width = len(_TITLES) * (across + self.size)
        self.lefts = range(self.size // 2, self.width, across + self.size)  # legend begins so too

    def _strip(self, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        strip = Image.new("RGB", (self.width, height), PAPER)
        pen = ImageDraw.Draw(strip)
        pen.font = ImageFont.load_default(self.size)
        return strip, pen

    def titles(self, titles: Sequence[str]) -> np.ndarray:
        strip, pen = self._strip(2 * self.size)
        for left, title in zip(self.lefts, titles):
            title = _fitted(title, self.cell[0], pen)
            pen.text((left, 1.2 * self.size), title, INK, anchor="lm")
        return np.asarray(strip)

    def header(self, name: str, details: str) -> np.ndarray:
        strip, pen = self._strip(2 * self.size)
        name = _fitted(name, self.width - 2 * self.size - pen.textlength(details), pen)
        pen.text((self.lefts[0], self.size), name, INK, anchor="lm")
        after = self.lefts[0] + pen.textlength(name) + self.size
        pen.text((after, self.size), details, _GREY, anchor="lm")
        return np.asarray(strip)

    def cells(self, cells: Sequence[Cell]) -> np.ndarray:
        wide, high = self.cell
        strip, pen = self._strip(high + 4 * self.size)
        for left, cell in zip(self.lefts, cells):
            if cell.picture is None:
                pen.rectangle((left, 0, left + wide - 1, high - 1), fill=_BLANK)
                middle = (left + wide / 2, high / 2)
                pen.text(middle, cell.caption, _GREY, anchor="mm", align="center")
                continue
            shown = cv2.resize(cell.picture, self.picture, interpolation=cv2.INTER_AREA)
            strip.paste(Image.fromarray(shown), (left, 0))
            y = high + self.size
            if cell.scale:
                self._bar(strip, pen, left, y, cell.scale)
                y += round(1.4 * self.size)
            pen.text((left, y), _fitted(cell.caption, wide, pen), INK, anchor="lm")
        return np.asarray(strip)

    def _bar(
        self, strip: Image.Image, pen: ImageDraw.ImageDraw, left: int, y: int, scale: _Scale
    ) -> None:
        """The colours of a scale between the values at its ends."""
        low, high, colormap = scale
        least, most = _ends(low, high)
        flat = high - low <= _FLAT
        pen.text((left, y), f"{least} everywhere" if flat else least, INK, anchor="lm")
        if flat:
            return
        ramp = np.tile(np.linspace(0, 1, self.cell[0] // 3), (round(0.7 * self.size), 1))
        x = left + round(pen.textlength(least) + self.size / 2)
        strip.paste(Image.fromarray(colored(ramp, 0, 1, colormap)), (x, y - len(ramp) // 2))
        pen.text((x + ramp.shape[1] + self.size / 2, y), most, INK, anchor="lm")

"""The figure of `segcoord attend`: prediction, Grad-CAM and attention gates, a row per model.

After figure 4 of Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design",
CVPR 2021.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segcoord.inference.explain import Explanation, class_index, explain, grad_cam
from segcoord.inference.inputs import printable
from segcoord.inference.sessions import require_packages
from segcoord.inference.visualize import blend
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.fonts import figure_fonts

_COLUMNS = ("image", "prediction", "Grad-CAM: {}", "a_h, along height", "a_w, along width", "both")
_CELL, _LINE = 2.8, 0.22  # inches: width of a cell, height of a line of text
_LEGEND_COLUMNS = 8
_FLAT = 1e-6  # smaller ranges are float32 rounding, which a color scale would magnify
_Scale = tuple[float, float, int]  # the values at a colormap's ends, and OpenCV's colormap


@dataclass(frozen=True)
class Cell:
    """A picture with its caption, or only a caption."""

    caption: str
    picture: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    scale: _Scale | None = None


def draw_attention(
    models: Sequence[tuple[str, SegmentationModel]],
    image: np.ndarray,
    class_name: str | None = None,
    block: str | None = None,
) -> np.ndarray:
    """Draw image, prediction, Grad-CAM and attention gates, one row per model.

    Gates are averaged over channels. Each gate map has its own color scale, with its range below.

    Args:
        models: name and model of each row; the models are not modified.
        image: (H, W, 3) uint8 RGB of any size, drawn 280 to 480 pixels long.
        class_name: the class for Grad-CAM; None for the class that the first model predicts for
            most pixels.
        block: a key of `blocks` that every encoder has; None for each model's last block with
            attention, or its last block if none has attention.

    Returns:
        (h, w, 3) uint8 RGB.

    Raises:
        UserError: a model lacks the class or the block, or grad-cam is not installed.
        ValueError: no model, or an image of another shape or dtype.
    """
    if not models:
        raise ValueError("expected one model or more, found none")
    require_packages("attend", "Grad-CAM")
    if class_name is not None:
        for name, model in models:
            class_index(name, model, class_name)
    rows = [explain(name, model, image, block) for name, model in models]
    if class_name is None:
        most = int(np.bincount(rows[0].prediction.ravel()).argmax())
        class_name = rows[0].model.labels.names[most]
    strips = []
    names = {name for row in rows for name in (printable(row.name), *row.model.labels.names)}
    with figure_fonts(sorted(names)):
        for row in rows:
            canvas = FigureCanvasAgg(draw_row(row, image, class_name))
            canvas.draw()
            strips.append(np.array(canvas.buffer_rgba())[..., :3])
    return np.concatenate(strips)


@matplotlib.rc_context({"font.size": 9, "text.parse_math": False, "axes.titlelocation": "left"})
def draw_row(row: Explanation, image: np.ndarray, class_name: str) -> Figure:
    """The figure of one model, with a legend of the classes that it predicts."""
    height, width = image.shape[:2]
    cell_height = _CELL * min(1, height / width)
    shown = np.unique(row.prediction).tolist()
    below = (4 + math.ceil(len(shown) / _LEGEND_COLUMNS)) * _LINE
    total = 2.5 * _LINE + cell_height + below
    figure = Figure((_CELL * 6.3, total), dpi=min(max(280, height, width), 480) / _CELL)
    edges = {"left": 0.05 / 6.3, "right": 6.25 / 6.3, "wspace": 0.04}  # columns one cell wide
    edges |= {"top": 1 - 2.5 * _LINE / total, "bottom": below / total}
    title = f"{printable(row.name)}   {row.details}"
    figure.text(edges["left"], 1 - 0.9 * _LINE / total, title, size=10)
    columns = figure.subplots(1, len(_COLUMNS), gridspec_kw=edges)
    for axes, column, cell in zip(columns, _COLUMNS, _cells(row, image, class_name)):
        axes.set(title=column.format(class_name), xticks=[], yticks=[], anchor="NW")
        if cell.picture is None:
            axes.set_facecolor("0.96")
            axes.text(0.5, 0.5, cell.caption, color="0.4", ha="center", va="center")
            continue
        box = axes.get_position(original=True)
        axes.imshow(cell.picture)
        axes.set_xlabel(cell.caption, loc="left")
        if cell.scale is not None:
            bottom = box.y0 - 1.7 * _LINE / total
            bar = figure.add_axes((box.x0, bottom, box.width, 0.3 * _LINE / total), yticks=[])
            _draw_scale(bar, *cell.scale)
    labels = row.model.labels
    boxes = [Patch(facecolor=labels.colors[i] / 255, edgecolor="0.2") for i in shown]
    names = [labels.names[i] for i in shown]
    corner = {"loc": "upper left", "bbox_to_anchor": (edges["left"], (below - 3 * _LINE) / total)}
    figure.legend(boxes, names, ncols=_LEGEND_COLUMNS, borderpad=0, frameon=False, **corner)
    return figure


def _draw_scale(bar: Axes, low: float, high: float, colormap: int) -> None:
    bar.imshow(colored(np.linspace(0, 1, 256)[None], 0, 1, colormap), aspect="auto")
    ends = _range_labels(low, high)
    if high - low <= _FLAT:
        bar.set_xticks([127.5], [f"{ends[0]} everywhere"])
        return
    bar.set_xticks([0, 255], ends)
    for label, side in zip(bar.get_xticklabels(), ("left", "right")):
        label.set_ha(side)


def _cells(row: Explanation, image: np.ndarray, class_name: str) -> list[Cell]:
    """The cells of a row, in the order of the columns."""
    index = class_index(row.name, row.model, class_name)
    height, width = image.shape[:2]
    pixels = row.prediction == index
    percent = f"{class_name}: {100 * pixels.mean():.3g} % of the pixels"
    target = "for its logits where predicted"
    if not pixels.any():
        target = "not predicted: for its mean logit"
        pixels[:] = True  # Grad-CAM's scaling gives the same map for sum and mean
    cam = grad_cam(row.model, image, index, row.block, pixels)
    turbo = (0.0, 1.0, cv2.COLORMAP_TURBO)
    heat = cv2.addWeighted(colored(cam, *turbo), 0.5, image, 0.5, 0)
    return [
        Cell(f"{width}x{height}", image),
        Cell(percent, blend(image, row.prediction, row.model.labels)),
        Cell(target, heat, turbo) if cam.any() else Cell(f"{target}\nzero everywhere"),
        *gate_cells(row, height, width),
    ]


def gate_cells(row: Explanation, height: int, width: int) -> list[Cell]:
    """Cells of a_h, of a_w, and of the product of all gates that vary over the image."""
    spatial = {key: gate for key, gate in row.gates.items() if key != "channel"}
    mean = f"mean of {row.shape[0]} channels"
    padded = row.model.padded_size(height, width)[::-1]

    def cell(gate: np.ndarray, caption: str) -> Cell:
        grid = np.broadcast_to(gate.mean(0), row.shape[1:])  # covers the model's padding too
        values = cv2.resize(grid, padded, interpolation=cv2.INTER_NEAREST_EXACT)[:height, :width]
        scale = (float(values.min()), float(values.max()), cv2.COLORMAP_VIRIDIS)
        return Cell(caption, colored(values, *scale), scale)

    none = Cell("no gate")
    both = none
    if spatial:
        channels = "one for all channels" if "spatial" in spatial else mean
        both = cell(reduce(np.multiply, spatial.values()), f"{' x '.join(spatial)}, {channels}")
    elif "channel" in row.gates:
        ends = _range_labels(row.gates["channel"].min(), row.gates["channel"].max())
        both = Cell(f"{row.kind}: one value per channel,\n{' to '.join(ends)}")
    elif row.kind:
        both = Cell(f"{row.kind}:\nits gates are not known")
    return [*(cell(spatial[k], mean) if k in spatial else none for k in ("a_h", "a_w")), both]


def _range_labels(low: float, high: float) -> tuple[str, str]:
    """Both ends of a range, with enough digits to distinguish them."""
    digits = max(2, 1 - math.floor(math.log10(max(high - low, _FLAT))))
    return f"{low:.{digits}f}", f"{high:.{digits}f}"


def colored(values: np.ndarray, low: float, high: float, colormap: int) -> np.ndarray:
    """Map (H, W) float32 to (H, W, 3) uint8 RGB; constant values get the colormap's middle."""
    fraction = (values - low) / (high - low) if high - low > _FLAT else np.full_like(values, 0.5)
    codes = (255 * fraction.clip(0, 1)).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(codes, colormap), cv2.COLOR_BGR2RGB)

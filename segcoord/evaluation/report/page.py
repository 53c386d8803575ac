"""The report page: one HTML file without scripts that needs no network and no other file.

Jinja2 escapes the names of classes and files. The Content-Security-Policy of the page forbids it to
load or run anything.
"""

from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from segcoord.data.labels import VOID
from segcoord.evaluation.bootstrap import MIN_IMAGES, miou_interval
from segcoord.evaluation.embed import data_uri, palette_png
from segcoord.evaluation.report import charts
from segcoord.evaluation.report.calibration import BINS, STEP
from segcoord.evaluation.report.collect import ReportData
from segcoord.evaluation.report.extremes import ScoredImage
from segcoord.evaluation.report.object_sizes import bin_names
from segcoord.utils.files import atomic_write

_WRONG, _VOID = (213, 94, 0), (128, 128, 128)


def write_page(path: Path, data: ReportData) -> None:
    """Writes the report as HTML.

    Raises:
        UserError: the file can't be written.
    """
    environment = Environment(
        loader=PackageLoader("segcoord.evaluation.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points}
    template = environment.get_template("page.html.j2")
    page = template.render(_headline(data) | _classes(data) | _charts(data) | _images(data))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if np.isfinite(value) else "-"


def _points(value: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "-"


def _headline(data: ReportData) -> dict:
    scores, protocol, counts = data.scores, data.protocol, data.collected.counts
    views = protocol.get("scales"), protocol.get("flip"), protocol.get("tiles")
    verdict = data.change and data.change.summary("the former", "the latter")
    return {
        "scores": scores,
        "names": data.labels.names,
        "absent": [data.labels.names[i] for i in scores.absent],
        "interval": miou_interval(counts),
        "in_truth": int((scores.truth > 0).sum()),
        "drawn": int(counts[:, 1].any(1).sum()),
        "protocol": protocol,
        "source": protocol.get("checkpoint") or protocol["predictions"],
        "of_model": "checkpoint" in protocol,
        "single": views[0] == [1.0] and not any(views[1:]),
        "shown_protocol": {key: _format(value) for key, value in protocol.items()},
        "change": data.change,
        "verdict": verdict and verdict[0].upper() + verdict[1:],
        "against": data.against,
        "min_images": MIN_IMAGES,
    }


def _format(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return {None: "none", True: "yes", False: "no"}.get(value, str(value))


def _classes(data: ReportData) -> dict:
    scores, labels = data.scores, data.labels
    fractions = scores.truth / max(1, scores.truth.sum())
    rows = [
        {
            "name": c.name,
            "color": "#{:02x}{:02x}{:02x}".format(*c.color),
            "iou": scores.iou[i],
            "recall": scores.accuracy[i],
            "fraction": fractions[i],
        }
        for i, c in enumerate(labels.classes)
    ]
    wrong = scores.confusion * (1 - np.eye(*scores.confusion.shape, dtype=np.int64))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:5]
    predicted = [*labels.names, "void"][: wrong.shape[1]]
    return {
        "rows": rows,
        "predicted": predicted,
        "confusion": scores.confusion,
        "rates": scores.confusion / np.maximum(scores.truth, 1)[:, None],
        "confused": [
            (labels.names[t], predicted[p], wrong[t, p] / scores.confusion.sum())
            for t, p in zip(*np.unravel_index(largest, wrong.shape))
            if wrong[t, p]
        ],
    }


def _charts(data: ReportData) -> dict:
    """The charts, and the cells of the tables with their numbers."""
    collected, scores, change = data.collected, data.scores, data.change
    sizes, calibration = collected.sizes, collected.calibration
    bands = collected.bands.bands()
    pixels = np.array([band.confusion.sum() for band in bands]) / max(1, scores.confusion.sum())
    figures = {
        "sizes": charts.sizes(sizes),
        "boundary": charts.boundary(collected.bands, scores),
    }
    cells = {
        "sizes": [
            (name, f"{objects:,}", classes, _percent(iou), _percent(recall))
            for name, objects, classes, iou, recall in zip(
                bin_names(),
                sizes.objects.sum(1),
                np.count_nonzero(sizes.truth, axis=1),
                *sizes.over_classes(),
            )
        ],
        "boundary": [
            (width, *map(_percent, (band.miou, band.pixel_accuracy, fraction)))
            for width, (band, fraction) in enumerate(zip(bands, pixels), 1)
        ],
    }
    if calibration is not None:
        figures["calibration"] = charts.calibration(calibration)
        columns = calibration.mean_confidence, calibration.accuracy, calibration.pixels
        cells["calibration"] = [
            (_percent(confidence), _percent(accuracy), f"{n:,}")
            for confidence, accuracy, n in zip(*columns)
            if n
        ]
    if change is not None:
        names = data.labels.names
        figures["change"] = charts.change(change, names)
        rows = [("mIoU", change.a, change.b, change.difference, change.drawn)]
        rows += zip(names, change.iou_a, change.iou_b, change.classes, change.images)
        cells["change"] = [
            (
                name,
                *map(_percent, (a, b)),
                *map(_points, (difference.value, difference.low, difference.high)),
                f"{images}{' *' if images < MIN_IMAGES else ''}",
            )
            for name, a, b, difference, images in rows
        ]
    return {
        "charts": {n: data_uri(f.savefig, "svg", transparent=True) for n, f in figures.items()},
        "cells": cells,
        "calibration": calibration,
        "bins": BINS,
        "step": STEP,
        "calibrated_images": collected.calibrated_images,
    }


def _images(data: ReportData) -> dict:
    worst, best = data.collected.extremes.worst_and_best()
    maps = [m for e in (*worst, *best) for m in (e.truth, e.prediction)]
    shown = sorted({int(v) for m in maps for v in np.unique(m)} - {VOID})
    return {
        "images": [
            (title, [_layers(scored, data) for scored in chosen])
            for title, chosen in (("Worst", worst), ("Best", best))
            if chosen
        ],
        "shown": shown,
    }


def _layers(scored: ScoredImage, data: ReportData) -> dict:
    """The photograph, and the maps that the page lays over it."""
    labels = data.labels
    errors = (scored.truth != scored.prediction).astype(np.uint8)
    errors[scored.truth == VOID] = 2
    height, width = scored.truth.shape
    error_colors = np.array([(0, 0, 0), _WRONG, _VOID], np.uint8)
    return {
        "stem": scored.stem,
        "miou": scored.miou,
        "lowest": labels.names[scored.lowest],
        "lowest_iou": scored.lowest_iou,
        "width": width,
        "height": height,
        "photo": data_uri(Image.fromarray(scored.image).save, "webp", quality=78, method=6),
        "maps": [
            ("truth", palette_png(scored.truth, labels.colors, VOID)),
            ("prediction", palette_png(scored.prediction, labels.colors, VOID)),
            ("errors", palette_png(errors, error_colors, 0)),
        ],
    }

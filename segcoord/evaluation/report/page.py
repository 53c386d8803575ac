"""The page: one HTML file that needs no network and no other file.

Jinja2 escapes every name that comes from a file. The page forbids itself to load anything (its
Content-Security-Policy), and to run any script but its own, which is named by its checksum.
"""

from __future__ import annotations

import base64
import hashlib
import io
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from segcoord.data.labels import VOID
from segcoord.evaluation.bootstrap import FEW_IMAGES, interval
from segcoord.evaluation.report import charts
from segcoord.evaluation.report.calibration import BINS, STEP
from segcoord.evaluation.report.charts import percent, points
from segcoord.evaluation.report.collect import ReportData
from segcoord.evaluation.report.extremes import Example
from segcoord.evaluation.report.object_sizes import bin_names
from segcoord.evaluation.report.svg import PAGE, inline
from segcoord.utils.files import atomic_write

_WRONG, _VOID = (213, 94, 0), (128, 128, 128)
_SHOWN_BANDS = (1, 2, 3, 5, 10, 20, 40)


def write_page(path: Path, findings: ReportData) -> None:
    """Writes the report.

    Raises:
        UserError: the file can't be written.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "points": points}
    template = environment.from_string(_read("page.html.j2"))
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = _headline(findings) | _tables(findings) | _charts(findings) | _examples(findings)
    page = template.render(
        parts, css=Markup(_read("page.css")), script=Markup(script), digest=digest
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _read(name: str) -> str:
    return files("segcoord.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _headline(findings: ReportData) -> dict:
    scores, how = findings.scores, findings.how
    return {
        "scores": scores,
        "names": findings.labels.names,
        "absent": [findings.labels.names[i] for i in scores.absent],
        "interval": interval(findings.gathered.counts),
        "in_truth": int((scores.truth > 0).sum()),
        "drawn": int(findings.gathered.counts[:, 1].any(1).sum()),
        "how": how,
        "single": how["scales"] == [1.0] and not how["flip"] and how["tiles"] is None,
        "protocol": {k: _spelled(v) for k, v in how.items()},
        "change": findings.change,
        "verdict": _verdict(findings),
        "against": findings.against,
        "few": FEW_IMAGES,
    }


def _verdict(findings: ReportData) -> str:
    if findings.change is None:
        return ""
    text = findings.change.sentence("the former", "the latter")
    return text[0].upper() + text[1:]


def _spelled(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return {None: "none", True: "yes", False: "no"}.get(value, str(value))


def _tables(findings: ReportData) -> dict:
    scores, labels = findings.scores, findings.labels
    share = scores.truth / max(1, scores.truth.sum())
    rows = [
        {
            "name": c.name,
            "color": "#{:02x}{:02x}{:02x}".format(*c.color),
            "iou": scores.iou[i],
            "recall": scores.accuracy[i],
            "share": share[i],
        }
        for i, c in enumerate(labels.classes)
    ]
    wrong = scores.confusion * (1 - np.eye(len(labels), dtype=np.int64))
    places = np.argsort(-wrong, axis=None, kind="stable")[:5]
    lost = [(int(p // len(labels)), int(p % len(labels))) for p in places]
    return {
        "rows": rows,
        "confusion": scores.confusion.tolist(),
        "rates": scores.confusion / np.maximum(scores.truth, 1)[:, None],
        "lost": [
            (labels.names[t], labels.names[p], wrong[t, p] / scores.confusion.sum())
            for t, p in lost
            if wrong[t, p]
        ],
    }


def _charts(findings: ReportData) -> dict:
    gathered, scores, change = findings.gathered, findings.scores, findings.change
    bands, calibration = gathered.bands.bands(), gathered.calibration
    drawn = {
        "sizes": (charts.sizes(gathered.sizes, PAGE), "IoU and recall by the size of objects"),
        "boundary": (
            charts.boundary(gathered.bands, scores, PAGE),
            "mIoU and pixel accuracy by the width of the band around boundaries",
        ),
        "calibration": (charts.calibration(calibration, PAGE), "accuracy by confidence"),
    }
    cells = {
        "sizes": [
            (name, f"{objects:,}", percent(iou), percent(recall))
            for name, objects, iou, recall in zip(
                bin_names(), gathered.sizes.objects.sum(1), *gathered.sizes.over_classes()
            )
        ],
        "boundary": [
            (width, *map(percent, (band.miou, band.pixel_accuracy, share)))
            for width, band in enumerate(bands, 1)
            for share in [band.confusion.sum() / max(1, scores.confusion.sum())]
            if width in _SHOWN_BANDS
        ],
        "calibration": [
            (percent(sure), percent(right), f"{n:,}")
            for sure, right, n in zip(
                calibration.mean_confidence, calibration.accuracy, calibration.pixels
            )
            if n
        ],
    }
    if change is not None:
        names = findings.labels.names
        caption = "change of each class's IoU with its interval"
        drawn["change"] = charts.change(change, names, PAGE), caption
        rows = [("mIoU", change.a, change.b, change.difference, change.drawn)]
        rows += zip(names, change.iou_a, change.iou_b, change.classes, change.images)
        cells["change"] = [
            (name, percent(a), percent(b), *map(points, (d.value, d.low, d.high)), n)
            for name, a, b, d, n in rows
        ]
    return {
        "charts": {name: inline(figure, name, text) for name, (figure, text) in drawn.items()},
        "cells": cells,
        "ece": calibration.ece,
        "bins": BINS,
        "step": STEP,
        "calibrated_pixels": int(calibration.pixels.sum()),
        "calibrated_images": gathered.calibrated_images,
    }


def _examples(findings: ReportData) -> dict:
    worst, best = findings.gathered.examples.worst_and_best()
    maps = [m for e in (*worst, *best) for m in (e.truth, e.prediction)]
    seen = sorted({int(v) for m in maps for v in np.unique(m)} - {VOID})
    return {
        "examples": [
            (title, [_example(e, findings) for e in chosen])
            for title, chosen in (("Worst", worst), ("Best", best))
            if chosen
        ],
        "shown": seen,
    }


def _example(example: Example, findings: ReportData) -> dict:
    labels = findings.labels
    errors = (example.truth != example.prediction).astype(np.uint8)
    errors[example.truth == VOID] = 2
    height, width = example.truth.shape
    colors = np.array([(0, 0, 0), _WRONG, _VOID], np.uint8)
    return {
        "stem": example.stem,
        "miou": example.miou,
        "lowest": labels.names[example.lowest],
        "lowest_iou": example.lowest_iou,
        "width": width,
        "height": height,
        "photo": _uri(Image.fromarray(example.image), "webp", quality=78, method=6),
        "maps": [
            ("truth", _map(example.truth, labels.colors, VOID)),
            ("prediction", _map(example.prediction, labels.colors, VOID)),
            ("errors", _map(errors, colors, 0)),
        ],
    }


def _map(indices: np.ndarray, colors: np.ndarray, clear: int) -> str:
    """A palette PNG in which the index `clear` lets the photograph through."""
    picture = Image.fromarray(indices)
    picture.putpalette(colors.tobytes())
    return _uri(picture, "png", optimize=True, transparency=clear)


def _uri(picture: Image.Image, kind: str, **how: object) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

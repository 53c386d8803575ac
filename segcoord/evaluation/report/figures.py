"""The charts of a report as PNG and PDF for papers."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from segcoord.evaluation.report import charts
from segcoord.evaluation.report.collect import ReportData
from segcoord.inference.visualize import blend, sheet, write_picture
from segcoord.utils.files import atomic_write

DPI = 300


def write_figures(folder: Path, findings: ReportData) -> list[Path]:
    """Writes NAME.png (300 dpi) and NAME.pdf of each chart, and worst.png and best.png.

    Returns:
        What was written.

    Raises:
        UserError: the folder can't be written.
    """
    scores, labels, gathered = findings.scores, findings.labels, findings.gathered
    drawn: dict[str, Figure] = {
        "classes": charts.classes(scores, labels),
        "confusion": charts.confusion(scores, labels),
        "sizes": charts.sizes(gathered.sizes),
        "boundary": charts.boundary(gathered.bands, scores),
        "calibration": charts.calibration(gathered.calibration),
    }
    if findings.change is not None:
        drawn["change"] = charts.change(findings.change, labels.names)
    written = []
    for name, figure in drawn.items():
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            with atomic_write(path) as temporary:
                # Without a date, the same scores give the same file.
                dateless = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
                figure.savefig(temporary, format=suffix, dpi=DPI, **dateless)
            written.append(path)
    for name, examples in zip(("worst", "best"), gathered.examples.worst_and_best()):
        if not examples:  # a split of one image has no best beside its worst
            continue
        rows = [
            [e.image, blend(e.image, e.truth, labels), blend(e.image, e.prediction, labels)]
            for e in examples
        ]
        path = folder / f"{name}.png"
        write_picture(path, sheet(rows, ("image", "truth", "prediction"), labels))
        written.append(path)
    return written

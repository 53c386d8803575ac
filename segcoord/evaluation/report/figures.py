"""The charts of a report as PNG and PDF files."""

from pathlib import Path

from matplotlib.figure import Figure

from segcoord.evaluation.report import charts
from segcoord.evaluation.report.collect import ReportData
from segcoord.evaluation.sheet import TITLES, example
from segcoord.inference.visualize import sheet, write_picture
from segcoord.utils.files import atomic_write

DPI = 300


def write_figures(folder: Path, data: ReportData) -> list[Path]:
    """Writes NAME.png (300 dpi) and NAME.pdf of each chart, and worst.png and best.png.

    Returns:
        The written files.

    Raises:
        UserError: the folder can't be written.
    """
    scores, labels, collected = data.scores, data.labels, data.collected
    figures: dict[str, Figure] = {
        "classes": charts.classes(scores, labels),
        "confusion": charts.confusion(scores, labels),
        "sizes": charts.sizes(collected.sizes),
        "boundary": charts.boundary(collected.bands, scores),
    }
    if collected.calibration is not None:
        figures["calibration"] = charts.calibration(collected.calibration)
    if data.change is not None:
        figures["change"] = charts.change(data.change, labels.names)
    written = []
    for name, figure in figures.items():
        for suffix in ("png", "pdf"):
            path = folder / f"{name}.{suffix}"
            with atomic_write(path) as temporary:
                # Without a date, the same scores give the same file.
                dateless = {"metadata": {"CreationDate": None}} if suffix == "pdf" else {}
                figure.savefig(temporary, format=suffix, dpi=DPI, **dateless)
            written.append(path)
    for name, images in zip(("worst", "best"), collected.extremes.worst_and_best()):
        if not images:  # a split of one image has no best image besides its worst
            continue
        rows = [example(e.image, e.prediction, e.truth, labels) for e in images]
        path = folder / f"{name}.png"
        write_picture(path, sheet(rows, TITLES, labels))
        written.append(path)
    return written

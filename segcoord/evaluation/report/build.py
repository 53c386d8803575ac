"""Collects a report during an evaluation and writes its page and figures."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import Namespace

from segcoord.data.split import Split
from segcoord.evaluation.bootstrap import paired_bootstrap
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.collect import ReportCollector, ReportData
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError
from segcoord.utils.fonts import figure_fonts


class OtherCounts(NamedTuple):
    """Predictions of the same images to compare with."""

    name: str
    """Shown in the report: the path of a checkpoint, or of a folder of masks."""
    counts: np.ndarray
    """(N, 3, K) int64 from `count_image`, in the order of the images."""


def require_report_packages() -> None:
    """Raises UserError if a package is missing that only reports need."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--report and --figures need {' and '.join(missing)}: pip install 'segcoord[report]'"
        )


class ReportBuilder:
    """Collects and writes `--report` and `--figures`; `add` is an `ImageCallback`.

    Args:
        args: with `report` and `figures`, the paths of the requested outputs.
        split: with masks.
        model: of the predictions, for their calibration; None for masks of another program.
        against: what to compare with.

    Raises:
        UserError: missing packages.
    """

    def __init__(
        self,
        args: Namespace,
        split: Split,
        model: SegmentationModel | None = None,
        against: OtherCounts | None = None,
    ) -> None:
        require_report_packages()
        self.args, self.labels, self.against = args, split.labels, against
        self.collector = ReportCollector(split.labels, len(split), model)
        self.add = self.collector.add

    def write(self, scores: Scores, protocol: dict) -> None:
        """Writes the requested page and figures; `protocol` is from `evaluation.protocol`."""
        from segcoord.evaluation.report.figures import write_figures
        from segcoord.evaluation.report.page import write_page

        change = against = None
        if self.against is not None:
            against, counts = self.against
            change = paired_bootstrap(counts, self.collector.counts)
        data = ReportData(scores, self.labels, protocol, self.collector, change, against)
        with figure_fonts(self.labels.names):
            if self.args.report:
                write_page(Path(self.args.report), data)
            if self.args.figures:
                write_figures(Path(self.args.figures), data)

"""TODO."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.split import Sample, Split
from segcoord.evaluation.bootstrap import compare
from segcoord.evaluation.compare import device_for, predict_counts
from segcoord.evaluation.evaluate import check_labels
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.collect import ReportCollector, ReportData
from segcoord.inference.load import checkpoint_path, load
from segcoord.inference.views import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


class ReportBuilder:
    """Gathers what `--report` and `--figures` need while a model is evaluated, and writes them.

    Args:
        args: of `evaluate`: report, figures, against, checkpoint.
        model: that is evaluated.
        split: with labels.
        data: its settings.
        views: of each image, for the other checkpoint too.

    Raises:
        UserError: packages are missing, or the other checkpoint is of other classes.
    """

    def __init__(
        self,
        args: Namespace,
        model: SegmentationModel,
        split: Split,
        data: DataConfig,
        views: Views,
    ) -> None:
        missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
        if missing:
            raise UserError(
                f"--report and --figures need {' and '.join(missing)}: "
                "pip install 'segcoord[report]'"
            )
        self.args, self.labels = args, model.labels
        self.before = None
        if args.against is not None:
            path = checkpoint_path(args.against)
            other = load(path, device_for(path, model.mean.device))
            check_labels(other, path, data)
            self.before = predict_counts(other, path, split, data.workers, views)
        self.gathered = ReportCollector(model, len(split))

    def add(self, sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        """Takes what `evaluate` hands to `on_image`."""
        self.gathered.add(sample, image, prediction, truth)

    def write(self, scores: Scores, how: dict) -> None:
        """Writes what was asked for; `how` is `evaluation.protocol`."""
        from segcoord.evaluation.report.figures import write_figures
        from segcoord.evaluation.report.page import write_page

        change = None
        if self.before is not None:
            change = compare(self.before, self.gathered.counts)
        against = self.args.against and str(checkpoint_path(self.args.against))
        findings = ReportData(scores, self.labels, how, self.gathered, change, against)
        if self.args.report:
            write_page(Path(self.args.report), findings)
        if self.args.figures:
            write_figures(Path(self.args.figures), findings)

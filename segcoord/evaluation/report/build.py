"""Collects a report during an evaluation and writes its page and figures."""

from importlib.util import find_spec
from pathlib import Path

from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.split import Split
from segcoord.evaluation.bootstrap import paired_bootstrap
from segcoord.evaluation.compare import device_for, predict_counts
from segcoord.evaluation.evaluate import check_labels
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.collect import ReportCollector, ReportData
from segcoord.inference.load import checkpoint_path, load
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError
from segcoord.utils.fonts import figure_fonts


class ReportBuilder:
    """Collects and writes `--report` and `--figures`; `add` is an `ImageCallback` for `evaluate`.

    Predicts the split, which has masks, with the checkpoint of `--against` first.

    Raises:
        UserError: missing packages, or another checkpoint with other classes.
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
        self.against = self.other_counts = None
        if args.against is not None:
            self.against = checkpoint_path(args.against)
            other = load(self.against, device_for(self.against, model.mean.device))
            check_labels(other, self.against, data)
            self.other_counts = predict_counts(other, self.against, split, data.workers, views)
        self.collector = ReportCollector(model, len(split))
        self.add = self.collector.add

    def write(self, scores: Scores, protocol: dict) -> None:
        """Writes the requested page and figures; `protocol` is from `evaluation.protocol`."""
        from segcoord.evaluation.report.figures import write_figures
        from segcoord.evaluation.report.page import write_page

        change = against = None
        if self.against is not None:
            change = paired_bootstrap(self.other_counts, self.collector.counts)
            against = str(self.against)
        data = ReportData(scores, self.labels, protocol, self.collector, change, against)
        with figure_fonts(self.labels.names):
            if self.args.report:
                write_page(Path(self.args.report), data)
            if self.args.figures:
                write_figures(Path(self.args.figures), data)

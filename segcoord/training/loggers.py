"""Weights & Biases and MLflow, through Lightning's loggers.

Where they write is theirs to be told: `wandb login` or WANDB_MODE=offline, WANDB_PROJECT;
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. Both name the project segcoord unless told otherwise.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

PROJECT = "segcoord"


def require_loggers(names: Sequence[str]) -> None:
    """Raises UserError where the packages of train.loggers are not installed."""
    for name in names:
        missing = [package for package in (name, "pytorch_lightning") if not find_spec(package)]
        if missing:
            raise UserError(
                f"train.loggers: {name} needs {' and '.join(missing)}, which is not installed. "
                "Install it with: pip install 'segcoord[loggers]'"
            )


class Loggers:
    """The loggers of a run, which go on with the same run there when ours goes on.

    Args:
        names: of wandb and mlflow.
        run: the run's folder; loggers.json in it keeps their names for it.
        settings: of the run, told to a new one.

    Raises:
        UserError: one that can't begin, for want of a login say.
    """

    def __init__(self, names: Sequence[str], run: Path, settings: dict) -> None:
        known_file = run / "loggers.json"
        known = _known(known_file) if known_file.is_file() else {}
        self.each = {}
        for name in names:
            try:
                logger, known_id = _OPEN[name](run, known.get(name))
                if name not in known:
                    logger.log_hyperparams(settings)
            except Exception as error:  # of their own types, which differ by version
                raise UserError(
                    f"train.loggers: {name} can't begin: {error}\nSee docs/runs.md; or leave it "
                    f"out: --resume {run} --train.loggers=[]"
                ) from error
            self.each[name] = logger
            known[name] = known_id
            write_json(known_file, known)

    def finish(self, name: str, failed: bool) -> None:
        """Ends one, after all that was logged has gone out."""
        if name == "wandb":
            self.each[name].experiment.finish(exit_code=int(failed))
        else:
            self.each[name].finalize("failed" if failed else "success")


def _known(path: Path) -> dict[str, str]:
    """The loggers' own names for a run; UserError for a damaged file."""
    try:
        known = json.loads(path.read_text())
        if isinstance(known, dict):
            return known
        reason = f"a {type(known).__name__}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UserError(
        f"{path}: can't be read ({reason}). Without it the run goes on, as a new one with the "
        "loggers: delete it"
    )


def _wandb(run: Path, known: str | None):
    from pytorch_lightning.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", PROJECT)
    logger = WandbLogger(name=_title(run), save_dir=run, id=known, project=project)
    return logger, logger.experiment.id


def _mlflow(run: Path, known: str | None):
    import mlflow
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger(
        os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=_title(run),
        tracking_uri=mlflow.get_tracking_uri(),
        run_id=known,
    )
    return logger, logger.run_id


def _title(run: Path) -> str:
    """The last two folders, as in voc_os16/001."""
    return "/".join(run.resolve().parts[-2:])


_OPEN = {"wandb": _wandb, "mlflow": _mlflow}

"""Weights & Biases and MLflow.

Each reads its own configuration: `wandb login` or WANDB_MODE=offline, WANDB_PROJECT;
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. The default project of both is segcoord.
"""

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

PROJECT = "segcoord"


def require_loggers(names: Sequence[str]) -> None:
    """Raise UserError if a package of train.loggers is not installed."""
    for name in names:
        if not find_spec(name):
            raise UserError(
                f"train.loggers: the package {name} is not installed. Install it with: "
                "pip install 'segcoord[loggers]'"
            )


class WandbLogger:
    def __init__(self, name: str, folder: Path, settings: dict, run_id: str | None) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = wandb.init(project=project, name=name, dir=folder, id=run_id, resume="allow")
        self.id = self.run.id
        if run_id is None:
            self.run.config.update(settings)
        # W&B's own step can't go back, but that of a resumed run does.
        self.run.define_metric("trainer/global_step")
        self.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values | {"trainer/global_step": step})

    def finish(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MlflowLogger:
    def __init__(self, name: str, folder: Path, settings: dict, run_id: str | None) -> None:
        import mlflow

        self.mlflow = mlflow
        if run_id is None:
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self.id = mlflow.start_run(run_id=run_id, run_name=name).info.run_id
        if run_id is None:
            for group, values in settings.items():  # cut to the limit of servers before 2.8
                mlflow.log_params({f"{group}/{k}": str(v)[:500] for k, v in values.items()})

    def log(self, step: int, values: dict[str, float]) -> None:
        self.mlflow.log_metrics(values, step=step)

    def finish(self, failed: bool) -> None:
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


Logger = WandbLogger | MlflowLogger
LOGGERS: dict[str, type[Logger]] = {"wandb": WandbLogger, "mlflow": MlflowLogger}


def open_loggers(names: Sequence[str], folder: Path, settings: dict) -> dict[str, Logger]:
    """Start the loggers of a run, or continue the logger runs whose ids are in its loggers.json.

    Args:
        names: keys of LOGGERS.
        folder: the run folder.
        settings: configuration by group, logged once.

    Raises:
        UserError: a logger can't start, for example without a login, or loggers.json is damaged.
    """
    id_file = folder / "loggers.json"
    try:
        ids = {**json.loads(id_file.read_text())} if id_file.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{id_file}: can't be read ({error}). To resume as a new run in the loggers, delete it"
        ) from error
    run_name = "/".join(folder.resolve().parts[-2:])  # for example voc_os16/001
    loggers = {}
    for name in names:
        try:
            loggers[name] = LOGGERS[name](run_name, folder, settings, ids.get(name))
        except Exception as error:  # the packages' own types, which differ by version
            raise UserError(
                f"train.loggers: {name} can't start: {error}\nSee docs/runs.md, or train without "
                f"it: --resume {folder} --train.loggers=[]"
            ) from error
        ids[name] = loggers[name].id
        write_json(id_file, ids)
    return loggers

"""Weights & Biases offline and MLflow in SQLite, with the real packages if installed."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, SMALL

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import (
    ClassificationConfig,
    ClassifierConfig,
    ImageFolderConfig,
    OptimConfig,
)
from segcoord.training import loggers
from segcoord.training.loggers import require_loggers
from segcoord.training.run_writer import RunWriter
from segcoord.utils.errors import UserError

CONFIG = ClassificationConfig(
    ClassifierConfig(), ImageFolderConfig("nowhere"), OptimConfig(max_steps=100)
)


@pytest.fixture
def needs(request: pytest.FixtureRequest) -> str:
    """The name of the logger; skips the test if its package is not installed."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def two_sessions(folder: Path, name: str) -> None:
    """A run that fails after step 20 and is resumed from there."""
    config = replace(CONFIG, train=replace(CONFIG.train, loggers=[name]))
    scores = ("top1", "top5")
    folder.mkdir()
    with pytest.raises(RuntimeError), RunWriter(folder, config, scores, 0, -1) as writer:
        writer.add(10, 0.1, 1.0, {"loss": 0.5, "lr": 0.1})
        writer.add(20, 0.2, 2.0, {"top1": 0.25, "top5": 0.75})
        raise RuntimeError("the machine went away")
    # The loggers must accept settings that may differ in a resumed run.
    config = replace(config, data=replace(config.data, workers=1))
    with RunWriter(folder, config, scores, 20, 20) as writer:
        writer.add(30, 0.3, 3.0, {"loss": 0.25, "lr": 0.05})
    assert writer.warned == set()


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after the 7-byte header of W&B.

    The file consists of 32 KiB blocks. A record has a checksum, a length and a type: whole (1), or
    the first (2), a middle (3) or the last (4) part of a longer one.
    """
    position, data = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # no room for a header in the block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if position + 7 + length > len(content):  # still being written
            return
        data += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield data
            data = b""


@pytest.mark.parametrize("needs", ["mlflow"], indirect=True)
def test_both_sessions_are_one_mlflow_run(needs: str, tmp_path: Path, monkeypatch) -> None:
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    import mlflow

    mlflow.set_tracking_uri(address)  # as MLFLOW_TRACKING_URI does for a new process
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "attention")
    two_sessions(tmp_path / "run", needs)
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("attention")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert json.loads((tmp_path / "run" / "loggers.json").read_text()) == {
        "mlflow": logged.info.run_id
    }
    assert logged.info.status == "FINISHED"
    assert logged.data.params["train/max_steps"] == "100"
    assert logged.data.params["model/encoder"] == "mobilenetv2_ca_100"
    history = client.get_metric_history(logged.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(10, 0.5), (30, 0.25)]
    assert logged.data.metrics["top1"] == 0.25


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_loggers_json_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(UserError, match=r"loggers.json: can't be read .* delete it"):
        loggers.open_loggers([], tmp_path, {})


def read_wandb(files: list[Path]) -> tuple[list, dict, list]:
    """(step, loss) of each row, the settings, and the exit code of each session."""
    from wandb.proto import wandb_internal_pb2

    losses, settings, codes = [], {}, []
    for file in files:
        for data in leveldb_records(file.read_bytes()):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(data)
            values = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in entry.history.item
            }
            if "loss" in values:
                losses.append((values["trainer/global_step"], values["loss"]))
            for item in entry.config.update:
                settings[item.key or item.nested_key[0]] = json.loads(item.value_json)
            if entry.HasField("exit"):
                codes.append(entry.exit.exit_code)
    return losses, settings, codes


@pytest.mark.parametrize("needs", ["wandb"], indirect=True)
def test_both_sessions_are_one_wandb_run(needs: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    two_sessions(tmp_path / "run", needs)
    identity = json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert len(files) == 2  # one for each session, of the same run
    for _ in range(100):  # the process of W&B may still be writing
        losses, settings, codes = read_wandb(files)
        if len(codes) == 2:
            break
        time.sleep(0.1)
    assert losses == [(10, 0.5), (30, 0.25)]
    assert settings["train"]["max_steps"] == 100
    assert codes == [1, 0]


@pytest.mark.parametrize("needs", ["mlflow"], indirect=True)
def test_a_run_resumes_without_a_logger_that_cant_start(
    needs: str, tmp_path: Path, sample_voc: Path, capsys
) -> None:
    import mlflow

    mlflow.set_tracking_uri("nonsense://nowhere")
    folder = tmp_path / "run"
    config = ROOT / "configs" / "sample.yaml"
    options = [f"--config={config}", f"--data.root={sample_voc}", f"--run={folder}", *SMALL]
    options += ["--train.max_steps=1", "--train.loggers=[mlflow]"]
    assert run(train, "train.py", options) == 1
    printed = capsys.readouterr().err
    assert "train.loggers: mlflow can't start" in printed and "Traceback" not in printed
    assert f"--resume {folder} --train.loggers=[]" in printed
    assert run(train, "train.py", [f"--resume={folder}", "--train.loggers=[]"]) == 0
    assert "error: train.loggers: mlflow" in (folder / "log.txt").read_text()


def test_an_unreachable_service_does_not_stop_a_run(tmp_path: Path, monkeypatch, capsys) -> None:
    class Unreachable:
        id = "0"

        def __init__(self, *_: object) -> None:
            """As a logger's."""

        def log(self, step: int, values: dict) -> None:
            raise ConnectionError("no answer")

        def finish(self, failed: bool) -> None:
            raise ConnectionError("no answer")

    monkeypatch.setitem(loggers.LOGGERS, "mlflow", Unreachable)
    config = replace(CONFIG, train=replace(CONFIG.train, loggers=["mlflow"]))
    with RunWriter(tmp_path, config, ("top1", "top5"), 0, -1) as writer:
        for step in (10, 20):
            writer.add(step, 0.1, 1.0, {"loss": 0.5})
    assert capsys.readouterr().out.count("mlflow: can't be written, continuing") == 1
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3


def test_a_missing_package_is_reported_first(monkeypatch, capsys, tmp_path) -> None:
    require_loggers([])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package wandb is not installed.*\[loggers\]"):
        require_loggers(["wandb"])
    config = ROOT / "configs" / "sample.yaml"
    options = [f"--config={config}", "--data.root=nowhere", "--train.loggers=[mlflow]"]
    assert run(train, "train.py", options) == 1
    assert "pip install 'segcoord[loggers]'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["[mlflow,mlflow]", "[tensorboard]"])
def test_a_repeated_or_unknown_logger_is_refused(given: str, capsys) -> None:
    config = ROOT / "configs" / "sample.yaml"
    assert run(train, "train.py", [f"--config={config}", f"--train.loggers={given}"]) == 1
    assert "train.loggers" in capsys.readouterr().err

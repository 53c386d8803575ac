"""Weights & Biases and MLflow for real, in files of their own: offline, and in SQLite."""

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
    """The logger's name; skips where its packages are absent, which the extra `loggers` brings."""
    for package in (request.param, "pytorch_lightning"):
        pytest.importorskip(package, reason=f"{package} is not installed: segcoord[loggers]")
    return request.param


def two_sessions(folder: Path, name: str) -> None:
    """A run that ends early with an error after step 20, and goes on from there."""
    config = replace(CONFIG, train=replace(CONFIG.train, loggers=[name]))
    scores = ("top1", "top5")
    folder.mkdir()
    with pytest.raises(RuntimeError), RunWriter(folder, config, scores, 0, -1) as record:
        record.add(10, 0.1, 1.0, {"loss": 0.5, "lr": 0.1})
        record.add(20, 0.2, 2.0, {"top1": 0.25, "top5": 0.75})
        raise RuntimeError("the machine went away")
    # What may differ in a run that goes on must not be refused there.
    config = replace(config, data=replace(config.data, workers=1))
    with RunWriter(folder, config, scores, 20, 20) as record:
        record.add(30, 0.3, 3.0, {"loss": 0.25, "lr": 0.05})
    assert record.warned == set()


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after the 7 bytes that W&B begins it with.

    Blocks of 32 KiB; a record has a checksum, its length, and whether it is whole (1) or the
    first (2), a middle (3) or the last (4) part of a longer one.
    """
    position, data = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:  # too little is left in the block for a header
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
def test_mlflow(needs: str, tmp_path: Path, monkeypatch) -> None:
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    import mlflow

    mlflow.set_tracking_uri(address)  # as MLFLOW_TRACKING_URI does for a new process
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "attention")
    two_sessions(tmp_path / "run", needs)
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name("attention")
    (found,) = client.search_runs([experiment.experiment_id])  # one, of both sessions
    assert json.loads((tmp_path / "run" / "loggers.json").read_text()) == {
        "mlflow": found.info.run_id
    }
    assert found.info.status == "FINISHED"
    assert found.data.params["train/max_steps"] == "100"
    assert found.data.params["model/encoder"] == "mobilenetv2_ca_100"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(10, 0.5), (30, 0.25)]
    assert found.data.metrics["top1"] == 0.25


@pytest.mark.parametrize("content", ["{", "[]"])
def test_damaged_names_are_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(UserError, match=r"loggers.json: can't be read .*: delete it"):
        loggers.Loggers([], tmp_path, {})


def told_to_wandb(files: list[Path]) -> tuple[list, dict, list]:
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
def test_wandb(needs: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    two_sessions(tmp_path / "run", needs)
    identity = json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert len(files) == 2  # one for each session, of the same run
    for _ in range(100):  # its own process writes them, and may still be at it
        losses, settings, codes = told_to_wandb(files)
        if len(codes) == 2:
            break
        time.sleep(0.1)
    assert losses == [(10, 0.5), (30, 0.25)]
    assert settings["train"]["max_steps"] == 100
    assert codes == [1, 0]


@pytest.mark.parametrize("needs", ["mlflow"], indirect=True)
def test_one_that_cant_begin_is_told_and_the_run_can_go_on(
    needs: str, tmp_path: Path, sample_voc: Path, capsys
) -> None:
    import mlflow

    mlflow.set_tracking_uri("nonsense://nowhere")
    folder = tmp_path / "run"
    config = ROOT / "configs" / "sample.yaml"
    options = [f"--config={config}", f"--data.root={sample_voc}", f"--run={folder}", *SMALL]
    options += ["--train.max_steps=1", "--train.loggers=[mlflow]"]
    assert run(train, "train.py", options) == 1
    told = capsys.readouterr().err
    assert "train.loggers: mlflow can't begin" in told and "Traceback" not in told
    assert f"--resume {folder} --train.loggers=[]" in told
    assert run(train, "train.py", [f"--resume={folder}", "--train.loggers=[]"]) == 0
    assert "error: train.loggers: mlflow" in (folder / "log.txt").read_text()


def test_a_service_out_of_reach_ends_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    class Gone:
        def log_metrics(self, values: dict, step: int) -> None:
            raise ConnectionError("no answer")

        def finalize(self, status: str) -> None:
            raise ConnectionError("no answer")

    monkeypatch.setitem(loggers._OPEN, "mlflow", lambda run, known: (Gone(), "0"))
    monkeypatch.setattr(Gone, "log_hyperparams", lambda *_: None, raising=False)
    config = replace(CONFIG, train=replace(CONFIG.train, loggers=["mlflow"]))
    with RunWriter(tmp_path, config, ("top1", "top5"), 0, -1) as record:
        for step in (10, 20):
            record.add(step, 0.1, 1.0, {"loss": 0.5})
    assert capsys.readouterr().out.count("mlflow: not written, but the run goes on") == 1
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 3


def test_a_missing_package_is_told_before_anything_else(monkeypatch, capsys, tmp_path) -> None:
    require_loggers([])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb needs wandb and pytorch_lightning.*\[loggers\]"):
        require_loggers(["wandb"])
    config = ROOT / "configs" / "sample.yaml"
    options = [f"--config={config}", "--data.root=nowhere", "--train.loggers=[mlflow]"]
    assert run(train, "train.py", options) == 1
    assert "pip install 'segcoord[loggers]'" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["[mlflow,mlflow]", "[tensorboard]"])
def test_a_wrong_list_is_refused(given: str, capsys) -> None:
    config = ROOT / "configs" / "sample.yaml"
    assert run(train, "train.py", [f"--config={config}", f"--train.loggers={given}"]) == 1
    assert "train.loggers" in capsys.readouterr().err

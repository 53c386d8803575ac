"""The folder of a run: its lock and origin.json, and the list of runs."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import Child

from segcoord.cli.main import run
from segcoord.cli.runs import runs
from segcoord.config.schema import (
    ClassificationConfig,
    ClassifierConfig,
    ImageFolderConfig,
    OptimConfig,
)
from segcoord.models.encoders.weights import LoadReport
from segcoord.training.run_dir import append_resume, lock_run, read_origin, write_origin
from segcoord.training.run_list import TABLE_WIDTH, find_runs

HEADER = "step,epoch,loss,lr,miou,pixel_accuracy,mean_accuracy,seconds\n"
CONFIG = """\
task: segmentation
model: {encoder: mobilenetv2_ca_100, decoder: deeplabv3, output_stride: 16}
data: {layout: voc, root: nowhere}
train: {max_steps: 4000}
"""


def make_run(folder: Path, rows: str, config: str = CONFIG, header: str = HEADER) -> Path:
    """A run folder with only the files that `segcoord runs` reads."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    origin = {"commit": "0123456789+", "date": "2026-11-22T21:30:00+00:00"}
    (folder / "origin.json").write_text(json.dumps(origin))
    (folder / "metrics.csv").write_text(header + rows)
    return folder


def lock_in_child(folder: Path) -> None:
    with lock_run(folder):
        print("locked")


def test_only_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    def printed_by_another() -> str:
        return Child(lock_in_child, tmp_path, output=tmp_path / "printed").wait()

    with lock_run(tmp_path):
        assert "another process trains in it" in printed_by_another()
    assert printed_by_another() == "locked\n"


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch, capsys) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with lock_run(tmp_path):
        assert "has no locks (No locks available)" in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs: one stopped, one worse at its end than before, one without a validation."""
    make_run(
        tmp_path / "voc" / "001",
        "200,1,0.5,0.01,,,,60.0\n200,1,,,0.40,0.8,0.5,90.0\n210,1,0.4,0.01,,,,95.0\n",
    )
    made = make_run(
        tmp_path / "a name that is long enough to need more than one line" / "voc_os16_seed0",
        "2000,1,,,0.55,0.8,0.5,3000\n3000,1,,,0.7123,0.8,0.5,3600\n4000,1,,,0.70,0.8,0.5,3723.4\n",
    )
    inside = made / "wandb" / "files"  # the folder of a logger is not another run
    shutil.copytree(made, inside, ignore=shutil.ignore_patterns("wandb"))
    make_run(tmp_path / "new", "10,1,0.7,0.01,,,,5.0\n")
    return tmp_path


def test_runs_are_sorted_by_score(root: Path) -> None:
    summaries, broken = find_runs(root)
    assert not broken
    assert [Path(each.folder).name for each in summaries] == ["voc_os16_seed0", "001", "new"]
    best, stopped, new = summaries
    assert (best.best, best.best_step, best.last, best.seconds) == (0.7123, 3000, 0.70, 3723.4)
    assert (best.steps, best.max_steps, best.score) == (4000, 4000, "miou")
    assert best.model == "mobilenetv2_ca_100 deeplabv3 16"
    assert (stopped.steps, stopped.best, stopped.last) == (210, 0.40, 0.40)
    assert (new.steps, new.best, new.best_step, new.last) == (10, None, None, None)
    assert find_runs(root / "new")[0] == [new]


def test_the_table_and_its_json(root: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "runs.json"
    assert run(runs, "segcoord runs", [str(root), f"--json={file}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= TABLE_WIDTH
    table = "\n".join(lines)
    for text in ("71.23", "at 3000", "of 4000", "1:02:03", "2026-11-22", "0123456789+", "mIoU"):
        assert text in table
    content = json.loads(file.read_text())
    assert [each["best"] for each in content["runs"]] == [0.7123, 0.40, None]
    assert content["broken"] == []


def test_a_run_of_classification(root: Path, capsys) -> None:
    config = ClassificationConfig(
        ClassifierConfig("mobilenetv2_ca_050"), ImageFolderConfig("x"), OptimConfig(max_steps=9)
    )
    header = "step,epoch,loss,lr,top1,top5,seconds\n"
    make_run(root / "imagenet", "9,1,,,0.743,0.9,60\n", config.to_yaml(), header)
    (first, *_) = find_runs(root)[0]
    assert (first.task, first.score, first.best) == ("classification", "top1", 0.743)
    assert first.model == "mobilenetv2_ca_050"
    assert run(runs, "segcoord runs", [str(root)]) == 0
    printed = capsys.readouterr().out
    assert "best top-1 %" in printed and "best mIoU %" in printed and "74.30" in printed


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", None, "it has no metrics.csv"),
        ("origin.json", None, "it has no origin.json"),
        ("origin.json", "{", "origin.json: can't be read"),
        ("origin.json", "[]", "not the file of a run"),
        ("config.yaml", "model: [", "not a readable YAML file"),
        ("config.yaml", "model: {encoder: x}", "KeyError 'train'"),
        ("config.yaml", "task: detection", "expected segmentation or classification"),
        ("config.yaml", "model: x\ntrain: {max_steps: 1}", "not those of a run"),
        ("metrics.csv", "a,b\n1,2\n", "KeyError 'miou'"),
        ("metrics.csv", f"{HEADER}ten,1,,,0.4,,,5\n", "ValueError"),
        ("metrics.csv", f"{HEADER}10,1,,,0.4\n", "not those of a run"),
        ("metrics.csv", b"\xff\xfe\n", "UnicodeDecodeError"),
    ],
)
def test_an_unreadable_run_is_named(root: Path, capsys, name: str, content, message: str) -> None:
    broken = root / "voc" / "001"
    (broken / name).unlink()
    if content is not None:
        (broken / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run(runs, "segcoord runs", [str(root)]) == 1
    shown = capsys.readouterr()
    line = next(line for line in shown.out.splitlines() if line.startswith("can't be read"))
    assert str(broken) in line and message in line
    assert "71.23" in shown.out  # the others are listed all the same
    assert not shown.err


@pytest.mark.parametrize(
    ("name", "message"), [("", "no run in it or below"), ("x", "no such folder")]
)
def test_a_folder_without_runs_is_an_error(tmp_path: Path, capsys, name, message) -> None:
    assert run(runs, "segcoord runs", [str(tmp_path / name)]) == 1
    assert message in capsys.readouterr().err


def test_a_real_run_is_listed(tiny_run: Path) -> None:
    ((summary,), broken) = find_runs(tiny_run)
    assert not broken
    assert (summary.steps, summary.max_steps) == (6, 6)
    assert summary.best is not None and summary.best >= summary.last
    assert replace(summary, folder="") == replace(find_runs(tiny_run.parent)[0][0], folder="")


def test_origin_records_code_and_machine(tmp_path: Path) -> None:
    report = LoadReport("file.pth", ["a", "b"], ["c", "d"], [], None, ["d"])
    write_origin(tmp_path, torch.device("cpu"), 2, report, {"class_weights": {"road": 0.5}})
    first = read_origin(tmp_path)
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "segcoord", "timm", "opencv-python-headless"} <= first["versions"].keys()
    assert first["devices"] == [first["cpu"]] * 2
    assert first["cpu"] and first["platform"]
    assert first["threads"] == torch.get_num_threads()
    new = {"new": ["c", "d"], "identity": ["d"], "mean_gates": []}
    assert first["weights"] == {"from": "file.pth", "loaded": 2, **new}
    assert first["class_weights"] == {"road": 0.5}
    for count in (1, 2):
        append_resume(tmp_path, torch.device("cpu"), 1)
        now = read_origin(tmp_path)
        assert len(now["resumed"]) == count
        assert {**now, "resumed": []} == first
    start_only = {"weights", "class_weights", "train_images", "resumed"}
    assert now["resumed"][0].keys() == first.keys() - start_only

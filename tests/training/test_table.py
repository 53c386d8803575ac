"""Tables: one real one; others with stubbed training for resuming, results and mistakes."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, SMALL

from segcoord.cli.common import new_parser
from segcoord.cli.main import run
from segcoord.cli.table import table
from segcoord.config.loading import add_settings, parse
from segcoord.config.schema import CONFIGS
from segcoord.models.factory import encoder_kwargs
from segcoord.training.table import _count_model
from segcoord.training.table_config import read_table
from segcoord.utils.errors import UserError

TABLES = sorted((ROOT / "configs" / "tables").glob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two encoders, two seeds, two steps each."""
    path = tmp_path / "tiny.yaml"
    tree = {
        "title": "Tiny",
        "config": str(ROOT / "configs" / "sample.yaml"),
        "settings": {"train": {"max_steps": 2, "val_interval": 2}},
        "encoders": [{"encoder": "mobilenetv2_050", "published": 50.5}, "mobilenetv2_ca_050"],
        "seeds": [0, 1],
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def options(root: Path, out: Path) -> list[str]:
    # SMALL sets the encoder, which is what a table varies.
    small = [option for option in SMALL if not option.startswith("--model.encoder")]
    return [f"--out={out}", f"--data.root={root}", *small]


def csv_rows(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="") as csv_file:
        return list(csv.DictReader(csv_file))


class StubTraining:
    """Writes what a run leaves, and records how it was called.

    Args:
        stop_at: the call that is interrupted, counted from 1.
    """

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.calls: list[tuple[str, str]] = []

    def __call__(self, config, name, *, run, resume, offline) -> int:
        self.calls.append(("resume" if resume else "run", name))
        folder = Path(resume or run)
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        origin = {"commit": "0123", "threads": 1, "versions": {"torch": "2.8"}}
        (folder / "origin.json").write_text(json.dumps(origin))
        (folder / "last.ckpt").touch()
        if len(self.calls) == self.stop_at:
            return 130
        (folder / "best.ckpt").touch()
        score = len(self.calls) / 10
        (folder / "metrics.csv").write_text(f"step,miou,seconds\n2,{score},90.0\n")
        return 0


SIZES: dict[str, tuple[int, float]] = {}


def count_once(config) -> tuple[int, float]:
    """The size of a model, computed once for all tests."""
    if config.model.encoder not in SIZES:
        SIZES[config.model.encoder] = _count_model(config)
    return SIZES[config.model.encoder]


@pytest.fixture
def stub(monkeypatch) -> StubTraining:
    monkeypatch.setattr("segcoord.training.table._count_model", count_once)
    stub = StubTraining()
    monkeypatch.setattr("segcoord.training.table.run_training", stub)
    return stub


def test_a_table_trains_its_rows_once(file: Path, sample_voc: Path, tmp_path: Path, capsys) -> None:
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(tree | {"encoders": tree["encoders"][:1]}))
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    assert "2 runs, 0 done already" in capsys.readouterr().out
    (row,) = csv_rows(out)
    scores = []
    for seed in (0, 1):
        with (out / f"mobilenetv2_050_os16_seed{seed}" / "metrics.csv").open() as metrics:
            scores += [100 * float(r["miou"]) for r in csv.DictReader(metrics) if r["miou"]]
    assert float(row["miou"]) == pytest.approx(statistics.mean(scores), abs=0.006)
    assert float(row["spread"]) == pytest.approx(statistics.stdev(scores), abs=0.006)

    for config in out.glob("*/config.yaml"):  # a version that doesn't have this setting yet
        config.write_text(config.read_text().replace("  augmentation: null\n", ""))
        assert "augmentation" not in config.read_text()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/last.ckpt")}
    assert len(stamps) == 2
    assert run(table, "segcoord table", command) == 0
    assert "2 runs, 2 done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_scores_and_sizes_are_written(
    file: Path, sample_voc: Path, tmp_path: Path, stub: StubTraining
) -> None:
    out = tmp_path / "out"
    assert run(table, "segcoord table", [str(file), *options(sample_voc, out)]) == 0
    plain, coord = csv_rows(out)
    assert (plain["encoder"], plain["runs"], plain["published"]) == ("mobilenetv2_050", "2", "50.5")
    assert (plain["miou"], plain["spread"], plain["scores"]) == ("15.00", "7.07", "10.00 20.00")
    assert (coord["miou"], coord["scores"], coord["published"]) == ("35.00", "30.00 40.00", "")
    assert (coord["minutes"], coord["commit"], coord["torch"]) == ("1.5", "0123", "2.8")
    assert int(coord["parameters"]) > int(plain["parameters"])
    assert float(coord["giga_macs"]) > float(plain["giga_macs"])
    text = (out / "table.md").read_text()
    assert text.count("\n| mobilenetv2") == 2
    assert "15.00 ± 7.07" in text
    assert "2 steps of" in text and "commit 0123" in text


def test_an_interrupted_table_resumes(
    file: Path, sample_voc: Path, tmp_path: Path, stub: StubTraining, capsys
) -> None:
    """Interrupted within the second run: the first isn't repeated, the second is resumed."""
    stub.stop_at = 2
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 130
    assert [row["runs"] for row in csv_rows(out)] == ["1", "0"]
    stub.calls.clear()
    stub.stop_at = 0
    assert run(table, "segcoord table", command) == 0
    assert "4 runs, 1 done already" in capsys.readouterr().out
    names = [f"mobilenetv2_{encoder}os16_seed" for encoder in ("050_", "ca_050_")]
    resumed, *new = stub.calls
    assert resumed == ("resume", f"{names[0]}1")
    assert new == [("run", f"{names[1]}0"), ("run", f"{names[1]}1")]
    assert [row["runs"] for row in csv_rows(out)] == ["2", "2"]


def test_runs_with_other_settings_are_refused(
    file: Path, sample_voc: Path, tmp_path: Path, stub: StubTraining, capsys
) -> None:
    out = tmp_path / "out"
    assert run(table, "segcoord table", [str(file), *options(sample_voc, out)]) == 0
    changed = [str(file), *options(sample_voc, out), "--train.lr=0.5"]
    assert run(table, "segcoord table", changed) == 1
    assert "trained with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds: found .., expected one or more different"),
        ({"seeds": [1, 1]}, "seeds: found .1, 1., expected one or more different"),
        ({"seeds": [0.5]}, r"seeds: found \[0.5\], expected a list of integers"),
        ({"seed": [1]}, "unknown key 'seed'; did you mean seeds?"),
        ({"encoders": None}, "required: encoders"),
        ({"encoders": ["a", "a"]}, "encoders: found .'a_os16', 'a_os16'., expected"),
        ({"encoders": [{"reduction": 3}]}, "missing, but required: encoder"),
        ({"encoders": [{"encoder": "a", "reductions": 3}]}, "did you mean reduction?"),
        ({"encoders": 5}, "encoders: found 5, expected a list of names"),
        ({"settings": {"model": {"reduction": 16}}}, "model.reduction is set by encoders"),
        ({"settings": {"train": {"seed": 16}}}, "train.seed is set by seeds"),
        ({"settings": [1]}, r"settings: found \[1\], expected groups"),
        ({"encoders": [{"encoder": "a", "published": {8: 7}}]}, "has no output stride 16"),
        (
            {"encoders": [{"encoder": "a", "published": "high"}]},
            "encoders: found .*'high'.*, expected a list of names",
        ),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: no such configuration file"),
    ],
)
def test_mistakes_in_the_file_are_errors(file: Path, change: dict, message: str) -> None:
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(tree | change))
    with pytest.raises(UserError, match=message) as caught:
        read_table(file)
    assert str(file.parent) in str(caught.value)


def test_options_cant_set_what_the_table_varies(
    file: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    command = [str(file), *options(sample_voc, tmp_path / "out"), "--train.seed=7"]
    assert run(table, "segcoord table", command) == 1
    assert "--train.seed 7: the table varies this setting" in capsys.readouterr().err


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_shipped_tables_have_valid_settings_and_encoders(path: Path) -> None:
    shipped = read_table(path)
    parser = new_parser("table", "")
    add_settings(parser, "model", "data", "train", task=shipped.task)
    seed = shipped.seeds[-1]
    for row in shipped.rows:
        encoder_kwargs(row.encoder, row.reduction)
        layers = [*shipped.layers, (row.name, row.settings(seed))]
        groups = parser.instantiate(parse(parser, [], *layers))
        config = CONFIGS[shipped.task](groups.model, groups.data, groups.train)
        config.check()
        assert config.model.encoder == row.encoder
        assert config.train.seed == seed


def test_a_run_killed_before_its_first_checkpoint_is_started_again(
    file: Path, sample_voc: Path, tmp_path: Path, stub: StubTraining
) -> None:
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    cell = out / "mobilenetv2_050_os16_seed0"
    for name in ("last.ckpt", "best.ckpt", "metrics.csv"):
        (cell / name).unlink()
    (cell / ".last.ckpt.x.part").touch()
    stub.calls.clear()
    assert run(table, "segcoord table", command) == 0
    assert stub.calls == [("run", cell.name)]
    assert not (cell / ".last.ckpt.x.part").exists()
    assert [row["runs"] for row in csv_rows(out)] == ["2", "2"]


def test_results_are_never_removed(
    file: Path, sample_voc: Path, tmp_path: Path, stub: StubTraining, capsys
) -> None:
    """A finished run without last.ckpt, deleted to save space, counts; an unfinished one stays."""
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    cell = out / "mobilenetv2_050_os16_seed0"
    (cell / "last.ckpt").unlink()
    assert run(table, "segcoord table", command) == 0
    assert "4 runs, 4 done already" in capsys.readouterr().out
    (cell / "metrics.csv").unlink()
    assert run(table, "segcoord table", command) == 1
    assert "has no last.ckpt to resume from, but best.ckpt" in capsys.readouterr().err
    assert (cell / "best.ckpt").exists()

"""Tables by command: the matrix, going on, running nothing twice, and what is written."""

from __future__ import annotations

import csv
import shutil
import statistics
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, SMALL

from segcoord.cli.main import run
from segcoord.cli.table import table
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


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="") as csv_file:
        return list(csv.DictReader(csv_file))


def test_every_cell_is_run_once_and_written_down(
    file: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    assert "4 runs, 0 done already" in capsys.readouterr().out
    plain, coord = lines(out)
    assert (plain["encoder"], plain["runs"], plain["published"]) == ("mobilenetv2_050", "2", "50.5")
    assert int(coord["parameters"]) > int(plain["parameters"])
    assert float(coord["giga_macs"]) > float(plain["giga_macs"])
    for line in (plain, coord):
        scores = []
        for seed in (0, 1):
            with (out / f"{line['encoder']}_os16_seed{seed}" / "metrics.csv").open() as metrics:
                scores += [100 * float(r["miou"]) for r in csv.DictReader(metrics) if r["miou"]]
        assert float(line["miou"]) == pytest.approx(statistics.mean(scores), abs=0.006)
        assert float(line["spread"]) == pytest.approx(statistics.stdev(scores), abs=0.006)
    text = (out / "table.md").read_text()
    assert text.count("\n| mobilenetv2") == 2
    assert "2 steps of" in text
    assert "commit" in text

    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/last.ckpt")}
    assert len(stamps) == 4
    assert run(table, "segcoord table", command) == 0
    assert "4 runs, 4 done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_it_goes_on_where_it_was_stopped(
    file: Path, sample_voc: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Stopped within the second run: the first isn't run again, the second goes on."""
    import signal

    from segcoord.training.progress import TrainingBar

    steps: list[int] = []

    def count(self, step: int, loss: float, lr: float) -> None:
        steps.append(step)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    monkeypatch.setattr(TrainingBar, "step", count)
    assert run(table, "segcoord table", command) == 130
    assert [line["runs"] for line in lines(out)] == ["1", "0"]
    assert run(table, "segcoord table", command) == 0
    assert "4 runs, 1 done already" in capsys.readouterr().out
    assert steps == [1, 2, 1, 2, 1, 2, 1, 2]
    assert [line["runs"] for line in lines(out)] == ["2", "2"]


def test_runs_of_other_settings_are_not_taken_for_its_own(
    file: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    file.write_text(file.read_text().replace("- 0\n- 1", "- 0"))
    assert run(table, "segcoord table", [str(file), *options(sample_voc, out)]) == 0
    changed = [str(file), *options(sample_voc, out), "--train.lr=0.5"]
    assert run(table, "segcoord table", changed) == 1
    assert "trained with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds: found .., expected a list of integers"),
        ({"seeds": [1, 1]}, "same one twice"),
        ({"seed": [1]}, "unknown key 'seed'; did you mean seeds?"),
        ({"encoders": None}, "lacks the key 'encoders'"),
        ({"encoders": ["mobilenetv2_100", "mobilenetv2_100"]}, "is in it 2 times"),
        ({"encoders": [{"reduction": 3}]}, "expected a name"),
        ({"encoders": [{"encoder": "a", "reductions": 3}]}, "did you mean reduction?"),
        ({"encoders": 5}, "encoders: found 5, expected a list"),
        ({"settings": {"model": {"reduction": 16}}}, "model.reduction is what encoders"),
        ({"settings": {"train": {"seed": 16}}}, "train.seed is what seeds says"),
        ({"settings": [1]}, "settings: found"),
        ({"encoders": [{"encoder": "a", "published": {8: 7}}]}, "none for output stride"),
        ({"encoders": [{"encoder": "a", "published": "high"}]}, "expected a number of percent"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml: no such configuration file"),
    ],
)
def test_mistakes_in_the_file_are_told(file: Path, change: dict, message: str) -> None:
    tree = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(tree | change))
    with pytest.raises(UserError, match=message):
        read_table(file)


def test_what_it_varies_can_not_be_set(
    file: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    command = [str(file), *options(sample_voc, tmp_path / "out"), "--train.seed=7"]
    assert run(table, "segcoord table", command) == 1
    assert "--train.seed 7: that is what the table varies" in capsys.readouterr().err


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_shipped_tables_are_of_settings_and_encoders_that_exist(path: Path) -> None:
    from segcoord.cli.common import new_parser
    from segcoord.config.loading import add_settings, parse
    from segcoord.config.schema import CONFIGS
    from segcoord.models.factory import encoder_kwargs

    shipped = read_table(path)
    for row in shipped.rows:
        encoder_kwargs(row.encoder, row.reduction)
        for seed in shipped.seeds:
            parser = new_parser("table", "")
            add_settings(parser, "model", "data", "train", task=shipped.task)
            groups = parser.instantiate(
                parse(parser, [], *shipped.layers, (row.name, row.settings(seed)))
            )
            config = CONFIGS[shipped.task](groups.model, groups.data, groups.train)
            config.check()
            assert config.model.encoder == row.encoder
            assert config.train.seed == seed


def test_a_cell_that_was_killed_at_its_start_is_begun_anew(
    file: Path, sample_voc: Path, tmp_path: Path
) -> None:
    file.write_text(file.read_text().replace("- 0\n- 1", "- 0"))
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    cell = out / "mobilenetv2_050_os16_seed0"
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt", "metrics.csv", "plot.png"):
        (cell / name).unlink()
    shutil.rmtree(cell / "predictions")
    (cell / ".last.ckpt.x.part").touch()
    assert run(table, "segcoord table", command) == 0
    assert [line["runs"] for line in lines(out)] == ["1", "1"]


def test_results_are_never_removed(file: Path, sample_voc: Path, tmp_path: Path, capsys) -> None:
    """A finished run whose last.ckpt was deleted to save space counts; an unfinished one stays."""
    file.write_text(file.read_text().replace("- 0\n- 1", "- 0"))
    out = tmp_path / "out"
    command = [str(file), *options(sample_voc, out)]
    assert run(table, "segcoord table", command) == 0
    cell = out / "mobilenetv2_050_os16_seed0"
    for name in ("last.ckpt", "previous.ckpt"):
        (cell / name).unlink()
    assert run(table, "segcoord table", command) == 0
    assert "2 runs, 2 done already" in capsys.readouterr().out
    (cell / "metrics.csv").unlink()
    assert run(table, "segcoord table", command) == 1
    assert "has no last.ckpt to go on from, but best.ckpt" in capsys.readouterr().err
    assert (cell / "best.ckpt").exists()

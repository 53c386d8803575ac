"""What several tests share: the sample dataset, a tiny run, the CamVid photographs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch: threads of several processes compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers import CAMVID, ROOT, SMALL, command

from segcoord.cli.main import main, run
from segcoord.cli.train import train
from segcoord.data.synthetic.dataset import write_sample

FSYNC, os.fsync = os.fsync, lambda _: None  # for the fixtures of a session


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("camvid") and not CAMVID.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"CamVid is not at {CAMVID}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(autouse=True)
def fsync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not survive a power cut, except in tests of that, which are marked `durable`."""
    durable = request.node.get_closest_marker("durable")
    monkeypatch.setattr(os, "fsync", FSYNC if durable else lambda _: None)


@pytest.fixture(scope="session")
def sample_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training and 6 validation scenes of 128x96 in VOC's tree."""
    root = tmp_path_factory.mktemp("sample") / "voc"
    write_sample(root, "voc", train=16, val=6, width=128, height=96)
    return root


@pytest.fixture(scope="session")
def sample_cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training and 4 validation scenes of 128x96 in Cityscapes' tree, and test scenes."""
    root = tmp_path_factory.mktemp("sample") / "cityscapes"
    write_sample(root, "cityscapes", train=8, val=4, width=128, height=96)
    return root


@pytest.fixture
def root(sample_voc: Path, tmp_path: Path) -> Path:
    """A copy of the sample that a test may change."""
    return Path(shutil.copytree(sample_voc, tmp_path / "voc"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """The folder of a finished run of a few steps on the sample."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = [
        f"--config={ROOT / 'configs' / 'sample.yaml'}",
        f"--data.root={sample_voc}",
        f"--run={folder}",
        "--train.max_steps=6",
        "--train.val_interval=3",
        *SMALL,
    ]
    assert run(train, "train.py", arguments) == 0
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """The best model of `tiny_run` as ONNX files, one of them with everything inside."""
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    options = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--format=onnx", "--image-to-mask"]
    assert main(["export", *options, f"--out={folder}"]) == 0
    return folder


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """The folder of a run by `command` that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(train, "train.py", command(sample_voc, folder)) == 0
    return folder

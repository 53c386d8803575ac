"""What several tests share: the sample dataset, a tiny run, the CamVid photographs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from segcoord.cli.common import Command

# torch takes seconds to import, and the main process of pytest-xdist runs no test.
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several processes compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")

FSYNC, os.fsync = os.fsync, lambda _: None  # for the fixtures of a session


# These start processes from one that has torch loaded, which takes long to make: one worker runs
# them all, and first, because they take longest.
PROCESSES = [
    f"training/test_{name}.py"
    for name in (
        *("distributed", "resume", "loop", "losses", "sync_batchnorm"),
        *("run_list", "run_writer", "classification"),
    )
]
FIRST = [
    *PROCESSES,
    *("deploy/test_export.py", "test_camvid.py"),
    *("models/test_decoders.py", "training/test_segmentation.py"),
]


class Scheduling(LoadScopeScheduling):
    """Gives a worker whole files, which share fixtures, and one worker all tests with processes.

    The groups of xdist's own `--dist loadgroup` are ignored with pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0].removeprefix("tests/")
        return "processes" if name in PROCESSES else name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch
    from helpers import CAMVID, WARNING_FILTERS, WITHOUT_WARNINGS

    torch.set_warn_always(True)  # many of its warnings come once per process otherwise
    names = {item: item.path.relative_to(Path(__file__).parent).as_posix() for item in items}
    items.sort(key=lambda item: FIRST.index(names[item]) if names[item] in FIRST else len(FIRST))
    for item in items:
        if names[item] in WITHOUT_WARNINGS:  # marks of the test itself are stronger
            item.add_marker(pytest.mark.filterwarnings(*WARNING_FILTERS), append=False)
        if item.get_closest_marker("camvid") and not CAMVID.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"CamVid is not at {CAMVID}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no GPU here"))


@pytest.fixture(autouse=True)
def fsync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not survive a power cut, except in tests of that, which are marked `durable`."""
    durable = request.node.get_closest_marker("durable")
    monkeypatch.setattr(os, "fsync", FSYNC if durable else lambda _: None)


Build = Callable[[Path], object]


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Build], Path]:
    """Calls `build(folder)` in the first worker that needs the folder; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, build: Build) -> Path:
        folder, built = base / name / name, base / name / "built"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not built.exists():
                build(folder)
                built.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def sample_voc(build_once: Callable[[str, Build], Path]) -> Path:
    """16 training and 6 validation scenes of 128x96 in VOC's tree."""
    from segcoord.data.synthetic.dataset import write_sample

    size = {"train": 16, "val": 6, "width": 128, "height": 96}
    return build_once("voc", lambda folder: write_sample(folder, "voc", **size))


@pytest.fixture(scope="session")
def sample_cityscapes(build_once: Callable[[str, Build], Path]) -> Path:
    """8 training and 4 validation scenes of 128x96 in Cityscapes' tree, and test scenes."""
    from segcoord.data.synthetic.dataset import write_sample

    size = {"train": 8, "val": 4, "width": 128, "height": 96}
    return build_once("cityscapes", lambda folder: write_sample(folder, "cityscapes", **size))


@pytest.fixture
def root(sample_voc: Path, tmp_path: Path) -> Path:
    """A copy of the sample that a test may change."""
    return Path(shutil.copytree(sample_voc, tmp_path / "voc"))


@pytest.fixture(scope="session")
def tiny_run(build_once: Callable[[str, Build], Path], sample_voc: Path) -> Path:
    """The folder of a finished run of a few steps on the sample dataset."""
    from helpers import ROOT, SMALL

    from segcoord.cli.train import train

    arguments = [
        f"--config={ROOT / 'configs' / 'sample.yaml'}",
        f"--data.root={sample_voc}",
        "--train.epochs=1.5",  # 6 steps
        "--train.val_interval=3",
        *SMALL,
    ]
    return build_once("tiny", lambda folder: succeed(train, [*arguments, f"--run={folder}"]))


@pytest.fixture(scope="session")
def exported(build_once: Callable[[str, Build], Path], tiny_run: Path) -> Path:
    """The best model of `tiny_run` in ONNX format, with image_to_mask."""
    from segcoord.cli.export import export

    options = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--format=onnx", "--image-to-mask"]
    return build_once("exported", lambda folder: succeed(export, [*options, f"--out={folder}"]))


@pytest.fixture(scope="session")
def uninterrupted(build_once: Callable[[str, Build], Path], sample_voc: Path) -> Path:
    """The folder of a run by `command` without interruption."""
    from helpers import command

    from segcoord.cli.train import train

    return build_once("whole", lambda folder: succeed(train, command(sample_voc, folder)))


def succeed(verb: Command, arguments: list[str]) -> None:
    from segcoord.cli.main import run

    assert run(verb, "segcoord", arguments) == 0

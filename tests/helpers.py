"""What several tests share."""

from __future__ import annotations

import csv
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcoord.cli.common import Command
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.loading import read_yaml
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.labels import numbered_labels
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.data.split import Split
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.segmentation import SegmentationModel
from segcoord.training.progress import TrainingBar
from segcoord.utils.errors import UserError

ROOT = Path(__file__).parents[1]


CAMVID = Path(os.environ.get("SEGCOORD_CAMVID", ROOT / "data" / "camvid"))
FORMATS = Path(os.environ.get("SEGCOORD_FORMATS", ROOT.parent / "shared" / "formats"))
_WEIGHTS = Path(os.environ.get("SEGCOORD_WEIGHTS", ROOT / "weights"))
IMAGENET_WEIGHTS = _WEIGHTS / "mobilenetv2_100_imagenet.pth"  # of timm's mobilenetv2_100


# The tests of all commands: a warning of a library is an error in them, unless Python hides its
# category from users. `demo` serves until it is stopped; deploy/test_demo.py calls its handlers.
COMMAND_TESTS = {
    "train": "training/test_loop.py",
    "evaluate": "evaluation/test_evaluate.py",
    "score": "evaluation/test_score.py",
    "predict": "inference/test_run.py",
    "export": "deploy/test_export.py",
    "compare": "evaluation/test_compare.py",
    "table": "training/test_table.py",
    "share": "models/test_hub.py",
    "demo": "deploy/test_demo.py",
    "data get": "data/test_download.py",
    "data import": "data/annotations/test_importing.py",
    "data trainaug": "data/test_voc_trainaug.py",
    "data suspects": "evaluation/test_suspects.py",
}
WITHOUT_WARNINGS = {"cli/test_warnings.py", "evaluation/test_report.py", *COMMAND_TESTS.values()}
_HIDDEN = ("DeprecationWarning", "PendingDeprecationWarning", "ImportWarning", "ResourceWarning")
WARNING_FILTERS = ["error", *(f"ignore::{name}" for name in _HIDDEN)]  # the strongest last


SMALL = [
    "--model.encoder=mobilenetv2_ca_050",
    "--data.crop_size=[64,64]",
    "--data.workers=0",
    "--train.batch_size=4",
    "--train.accelerator=cpu",
]


def command(root: Path, folder: Path, *more: str) -> list[str]:
    """A run of 8 steps with validations at 3, 6 and 8, whose epochs of 4 steps don't divide it."""
    config = ROOT / "configs" / "sample.yaml"
    return [
        f"--config={config}",
        f"--data.root={root}",
        f"--run={folder}",
        "--train.max_steps=8",
        "--train.lr=0.002",
        "--train.val_interval=3",
        *SMALL,
        *more,
    ]


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / name)["state_dict"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@contextmanager
def chromium() -> Iterator:
    """The machine's Chromium without a window; what tests with it need is skipped without one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
    found = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as p:
        found = found or p.chromium.executable_path
        if not Path(found).exists():
            pytest.skip(f"no browser here: none of {', '.join(names)}, nor playwright's own")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # whom Chromium's sandbox refuses
        browser = p.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@contextmanager
def opened_offline(page: Path) -> Iterator:
    """The page opened from disk without a network; it must not log, load or ask anything."""
    size = {"width": 1200, "height": 900}
    with chromium() as browser:
        context = browser.new_context(offline=True, viewport=size, reduced_motion="reduce")
        tab, messages, loaded = context.new_page(), [], []
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: loaded.append(request.url))
        tab.goto(page.as_uri())
        yield tab
    assert messages == []
    assert [url for url in loaded if not url.startswith("data:")] == [page.as_uri()]


def mean_iou(pairs: list[tuple[np.ndarray, np.ndarray]], values: list[int]) -> float:
    """Plainly, class by class: (truth, prediction) maps of mask values."""
    ious = []
    for value in values:
        both = either = 0
        for truth, prediction in pairs:
            counts = np.isin(truth, values)
            t, p = (truth == value) & counts, (prediction == value) & counts
            both += int((t & p).sum())
            either += int((t | p).sum())
        if either:
            ious.append(both / either)
    return sum(ious) / len(ious)


def wrapped(net: nn.Module, stride: int, classes: int) -> SegmentationModel:
    spec = {"output_stride": stride, "decoder": "deeplabv3"}
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    return SegmentationModel(
        net.requires_grad_(False), spec, numbered_labels(classes), mean, std
    ).eval()


def local_model(stride: int, classes: int = 5, seed: int = 0) -> SegmentationModel:
    """A network that sees nothing but the stride x stride pixels that each logit stands for."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(3, classes, 1)).requires_grad_(False)
    net[1].weight *= 8
    return wrapped(net, stride, classes)


def shaken(model: nn.Module) -> nn.Module:
    """Statistics and scales far from their start, where a batch norm does nothing."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


def tiff_of_channels(
    values: np.ndarray, photometric: int = 1, extra: tuple[int, ...] = ()
) -> bytes:
    """An uncompressed TIFF of (H, W, channels), which Pillow writes for few numbers of channels.

    Args:
        values: uint8 or uint16.
        photometric: 1 for gray, as programs for satellite images write, 2 for RGB.
        extra: the kinds of the extra channels: 0 unspecified, 2 alpha.
    """
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[258] = width, height, (8 * values.itemsize,) * channels
    tags[259], tags[262], tags[273], tags[277] = 1, photometric, 0, channels
    tags[278], tags[279], tags[284] = height, len(data), 1
    if extra:
        tags[338] = extra
    header = b"II*\0" + (8).to_bytes(4, "little")
    return header + tags.tobytes(len(header)) + data  # which places the pixels behind the tags


THINGS = [24, 25, 26, 27, 28, 29, 30, 31, 32, 33]
"""Label ids of Cityscapes whose instances are counted."""


def instances_of(ids: np.ndarray) -> np.ndarray:
    """(H, W) uint16: each connected region of a thing is an instance; every fifth is a group."""
    instances = ids.astype(np.uint16)
    for label in THINGS:
        _, regions = cv2.connectedComponents((ids == label).astype(np.uint8))
        single = (regions > 0) & (regions % 5 != 4)
        instances[single] = 1000 * label + (regions[single] - 1)
    return instances


class Tree:
    """A copy of the sample that a test breaks."""

    def __init__(self, root: Path) -> None:
        self.base = root / "VOCdevkit" / "VOC2012"
        self.images, self.masks = self.base / "JPEGImages", self.base / "SegmentationClass"
        self.train = self.base / "ImageSets" / "Segmentation" / "train.txt"
        self.stems = self.train.read_text().split()
        self.image = self.images / f"{self.stems[3]}.jpg"
        self.mask = self.masks / f"{self.stems[3]}.png"

    def ids(self) -> np.ndarray:
        return np.array(Image.open(self.mask))

    def write_ids(self, ids: np.ndarray) -> None:
        Image.fromarray(ids.astype(np.uint8)).save(self.mask)

    def every_mask(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        for path in self.masks.iterdir():
            Image.fromarray(change(np.array(Image.open(path))).astype(np.uint8)).save(path)


def truncate(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def train_on(tree: Tree, *more: str) -> int:
    root = tree.base.parents[1]
    arguments = [
        f"--config={ROOT / 'configs' / 'sample.yaml'}",
        f"--data.root={root}",
        f"--run={root.parent / 'run'}",
        "--train.max_steps=1",
        *SMALL,
        *more,
    ]
    return run(train, "train.py", arguments)


CLASSES = [  # of the sample dataset
    ClassConfig(**c) for c in read_yaml(ROOT / "configs" / "sample.yaml")["data"]["classes"]
]
MEAN = (0.485, 0.456, 0.406)


def pack_config(root: Path, **settings) -> DataConfig:
    return DataConfig(
        "voc", str(root), **{"classes": CLASSES, "crop_size": (48, 48), "workers": 0, **settings}
    )


def packed(root: Path, name: str = "train") -> tuple[Split, Path]:
    """A split and its pack, written in this process."""
    split, folder = find_split(pack_config(root), name), root / ".segcoord" / name
    write_pack(split, folder, workers=1)
    return split, folder


def refusal(root: Path, **settings) -> str:
    """What training would say."""
    data = pack_config(root, **settings)
    with pytest.raises(UserError) as caught:
        with_pack(find_split(data, "train"), data)
    return str(caught.value)


def same_pixels(a: Split, b: Split) -> bool:
    for index in range(len(a)):
        for x, y in zip(a.read(index), b.read(index)):
            if not (x is y is None or (x.dtype == y.dtype == np.uint8 and np.array_equal(x, y))):
                return False
    return len(a) == len(b)


def images_of(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012" / "JPEGImages"


def shorten(path: Path, length: int = 1) -> None:
    os.truncate(path, path.stat().st_size - length)


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


PRELOAD = [
    *("cv2", "pytest", "segmentation_models_pytorch", "torch._dynamo"),
    *("segcoord.cli.main", "segcoord.training.launch"),
]


def forkserver() -> ForkServerContext:
    """Starts processes by a fork of one that has torch and segcoord imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


class Child:
    """A process forked from one that has torch and segcoord imported already.

    Args:
        target: run in the process; its result is the exit code.
        args: of the target.
        output: file for stdout and stderr.
        env: environment variables to set.
        memory: largest address space, in bytes.
        threads: OpenMP threads.
    """

    def __init__(
        self,
        target: Callable[..., int | None],
        *args: object,
        output: Path,
        env: dict[str, str] | None = None,
        memory: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.output = output
        threads = threads or torch.get_num_threads()
        settings = (target, args, output, env or {}, memory, threads)
        self.process = forkserver().Process(target=_run_child, args=settings)
        self.process.start()
        self.pid = self.process.pid

    def wait(self, timeout: float = 120) -> str:
        """What the process printed, after its end."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            pytest.fail(f"still running after {timeout} s: {self.output.read_text()}")
        return self.output.read_text()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode


def _run_child(
    target: Callable[..., int | None],
    args: tuple,
    output: Path,
    env: dict[str, str],
    memory: int | None,
    threads: int,
) -> None:
    os.setsid()
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    os.fsync = lambda _: None
    # The system's default, as `python train.py`: workers of a fork server would import torch again.
    multiprocessing.set_start_method(None, force=True)
    torch.set_num_threads(threads)
    if target is run:
        sys.argv = [str(ROOT / args[1]), *args[2]]
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.exit(target(*args))


def start_train(arguments: list[str], output: Path, **settings: object) -> Child:
    """`python train.py ARGUMENTS` in a process of its own."""
    return Child(run, train, "train.py", arguments, output=output, **settings)


def start_ranks(
    count: int, arguments: list[str], folder: Path, verb: Command = train
) -> list[Child]:
    """`torchrun train.py ARGUMENTS` on one machine, one process per rank, or another command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        env = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": count}
        env |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {key: str(value) for key, value in env.items()} | {"TORCHELASTIC_RUN_ID": "test"}
        output = folder / f"rank{rank}.txt"
        child = Child(_run_rank, rank, arguments, verb, output=output, env=env, threads=1)
        children.append(child)
    return children


def _run_rank(rank: int, arguments: list[str], verb: Command) -> int:
    rank_zero_only.rank = rank  # Lightning reads it from the environment when imported
    name = f"{verb.__name__}.py"
    sys.argv = [str(ROOT / name), *arguments]
    return run(verb, name, arguments)


def wait_for(path: Path, child: Child) -> None:
    """Wait until a file exists; fails if the process ends or two minutes pass before that."""
    deadline = time.monotonic() + 120
    while not path.exists() and child.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), child.output.read_text()


def interrupt_at(stop_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when the loss of a step is read."""

    def step(self: TrainingBar, step: int, loss: float, lr: float) -> None:
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingBar, "step", step)

"""What benchmarks/gpu.py measures: training, evaluation and inference on one device."""

from __future__ import annotations

import itertools
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MethodType

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

import segcoord
from segcoord.config.schema import (
    ClassConfig,
    DataConfig,
    ModelConfig,
    SegmentationConfig,
    TrainConfig,
)
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import Pack, with_pack
from segcoord.data.split import SampleList, Split
from segcoord.deploy import onnx
from segcoord.deploy.graph import network_graph
from segcoord.deploy.verify import synthetic
from segcoord.evaluation.evaluate import evaluate
from segcoord.models.fold_batch_norm import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel
from segcoord.training.fabric import training_fabric
from segcoord.training.loop import TrainingInterrupted, TrainingLoop, create_loop
from segcoord.training.segmentation import SegmentationTask

CLASSES = 19
SMP = "smp.DeepLabV3('mobilenet_v2')"


@dataclass(frozen=True)
class Setup:
    """Where and how long to measure; `root` is a dataset in layout folder, with a pack."""

    device: str
    seconds: float  # of each measurement
    root: Path
    workers: int
    encoder: str = "mobilenetv2_ca_100"

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def half(self) -> torch.dtype:
        return torch.float16 if self.on_gpu else torch.bfloat16

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def data(self, pack: str, crop: int = 64) -> DataConfig:
        classes = [ClassConfig(str(n), [n, n, n]) for n in range(CLASSES)]
        settings = {"crop_size": (crop, crop), "workers": self.workers, "pack": pack}
        return DataConfig("folder", str(self.root), classes, val_split="train", **settings)

    def split(self, pack: str, repeat: int = 1) -> Split:
        split = with_pack(find_split(self.data(pack), "train"), self.data(pack))
        samples = SampleList([*split.samples] * repeat)
        return replace(split, samples=samples, pack=split.pack and Repeated(split.pack))

    def median_seconds(self, step: Callable[[], object]) -> float:
        """Seconds of a call; waits for the device once in several calls."""
        calls, times = 5 if self.on_gpu else 1, []
        for _ in range(calls):  # warmup
            step()
        self.synchronize()
        while sum(times) * calls < self.seconds or len(times) < 3:
            began = time.perf_counter()
            for _ in range(calls):
                step()
            self.synchronize()
            times.append((time.perf_counter() - began) / calls)
        return statistics.median(times)


class TimedBatches:
    """Batches for a `TrainingLoop`: measures the time to get each, stops the loop in the end."""

    def __init__(self, batches: Iterable[dict], loop: TrainingLoop, seconds: float) -> None:
        self.batches, self.loop, self.seconds = batches, loop, seconds
        self.starts: list[float] = []  # of the steps, after the losses of the last were read
        self.waits: list[float] = []

    def __iter__(self) -> Iterator[dict]:
        batches = iter(self.batches)
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.starts.append(began)
            self.waits.append(time.perf_counter() - began)
            warm = self.starts[self.first :]
            if warm and began - warm[0] > self.seconds:
                self.loop.stop_signal = signal.SIGINT
            yield batch

    @property
    def first(self) -> int:
        """The first step that counts: a GPU has read no loss before, and is warm."""
        return 2 * self.loop.read_interval

    def result(self) -> tuple[float, float]:
        """Seconds of a step, and the fraction of the time that it waits for its batch."""
        last = (len(self.starts) - 1) // self.loop.read_interval * self.loop.read_interval
        elapsed = self.starts[last] - self.starts[self.first]
        return elapsed / (last - self.first), sum(self.waits[self.first : last]) / elapsed


def training_loop(
    setup: Setup, crop: int, batch: int, stride: int, source: str = "device", **settings
) -> tuple[float, float]:
    """The loop of `segcoord train`: images per second, and the fraction of time without a batch.

    Args:
        source: of the batches: "device" for one that is there already, "pack" or "files".
    """
    data = setup.data("off" if source == "files" else "auto", crop)
    data.workers = 0 if source == "device" else setup.workers
    config = SegmentationConfig(
        ModelConfig(setup.encoder, output_stride=stride),
        data,
        TrainConfig(
            max_steps=10**6,
            val_interval=10**6,
            batch_size=batch,
            lr=1e-4,
            accelerator=setup.device,
            **settings,
        ),
    )
    torch.manual_seed(0)
    split = setup.split(data.pack)
    model = segcoord.create_model(setup.encoder, CLASSES, stride, labels=split.labels)
    task = SegmentationTask(config, model, (split, split))
    fabric = training_fabric(config.train)
    with tempfile.TemporaryDirectory() as run:
        loop = create_loop(task, Path(run), fabric)
        batches = loop._batches()
        if source == "device":
            batches = itertools.repeat(next(iter(batches)))
        timed = TimedBatches(batches, loop, setup.seconds)
        loop._batches = MethodType(lambda _: timed, loop)
        try:
            loop.fit()
        except TrainingInterrupted:
            seconds, waiting = timed.result()
            return batch / seconds, waiting
    raise AssertionError("the loop ended by itself")


def smp_training(
    setup: Setup, crop: int, batch: int, stride: int, autocast: bool
) -> tuple[float, None]:
    """The usual loop with smp's model; its stride must divide the crop. Normalized float images."""
    side = -(-crop // 16) * 16
    net = smp.DeepLabV3(
        "mobilenet_v2", encoder_weights=None, classes=CLASSES, encoder_output_stride=stride
    ).to(setup.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=4e-5)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    images = torch.randn(batch, 3, side, side, device=setup.device)
    masks = torch.randint(0, CLASSES, (batch, side, side), device=setup.device)
    net.train()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(setup.device, torch.bfloat16) if autocast else nullcontext():
            error = loss(net(images), masks)
        error.backward()
        optimizer.step()

    return batch / setup.median_seconds(step), None


def evaluation(setup: Setup, stride: int, source: str) -> tuple[float, None]:
    """Images per second from the dataset to the score, at the images' size.

    The start of the workers and the images that they have ready by then are not counted.
    """
    model, pack = inference_model(setup, stride), "off" if source == "files" else "auto"

    def rate(repeat: int) -> float:
        times: list[float] = []
        split = setup.split(pack, repeat)
        evaluate(model, split, setup.workers, lambda *_: times.append(time.perf_counter()))
        first = min(2 * setup.workers, len(times) // 2)
        return (len(times) - 1 - first) / (times[-1] - times[first])

    return rate(max(2, round(setup.seconds * rate(2) / len(setup.split(pack))))), None


@dataclass(frozen=True)
class Repeated:
    """The pixels of a pack, again and again."""

    pack: Pack

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.pack[index % len(self.pack)]


def inference_model(setup: Setup, stride: int) -> SegmentationModel:
    """As `segcoord.load` returns it."""
    torch.manual_seed(0)
    model = segcoord.create_model(setup.encoder, CLASSES, stride).eval()
    model = fold_batch_norm(model).requires_grad_(False)
    return model.to(setup.device, memory_format=torch.channels_last)


def logits(
    setup: Setup, side: int, batch: int, half: bool, graph: bool, peer: bool = False
) -> tuple[float, None]:
    """Images per second of the network's forward pass at stride 16; smp's with its upsampling."""
    if peer:
        net = smp.DeepLabV3("mobilenet_v2", encoder_weights=None, classes=CLASSES)
        net = net.to(setup.device).eval().requires_grad_(False)
    else:
        net = inference_model(setup, 16).net
    dtype = setup.half if half else torch.float32
    net = net.to(dtype)
    x = torch.randn(batch, 3, side, side, device=setup.device, dtype=dtype)
    x = x if peer else x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        call = captured(net, x) if graph else lambda: net(x)
        return batch / setup.median_seconds(call), None


def captured(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """The replay of a CUDA graph of `net(x)`."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # as torch.cuda.graph asks for
        for _ in range(3):
            net(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(x)
    return graph.replay


def masks(setup: Setup, side: int) -> tuple[float, None]:
    """Images per second of `segcoord.predict`, from a uint8 array to the mask on the CPU."""
    model = inference_model(setup, 16)
    image = synthetic(1, (side, side))[0]
    return 1 / setup.median_seconds(lambda: segcoord.predict(model, image)), None


def tensorrt(setup: Setup, side: int, batch: int) -> tuple[float, None]:
    """Images per second of the ONNX file in float16 with ONNX Runtime's TensorRT provider."""
    import onnxruntime

    options = {"trt_fp16_enable": True}
    providers = [("TensorrtExecutionProvider", options)] if setup.on_gpu else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.write(network_graph(inference_model(setup, 16)), path, {})
        session = onnxruntime.InferenceSession(
            path, providers=providers or ["CPUExecutionProvider"]
        )
    x = np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)
    return batch / setup.median_seconds(lambda: session.run(None, {"image": x})), None


def has_tensorrt(setup: Setup) -> bool:
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        return False
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return not setup.on_gpu or "TensorrtExecutionProvider" in available

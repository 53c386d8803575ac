"""On a GPU: every command, every setting of the loop, agreement with the CPU, no waiting."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import command, images_of, interrupt_at, rows, shaken, weights
from PIL import Image

import segcoord
from segcoord.cli.compare import compare
from segcoord.cli.evaluate import evaluate
from segcoord.cli.export import export
from segcoord.cli.main import run
from segcoord.cli.predict import predict
from segcoord.cli.train import train
from segcoord.config.schema import TrainConfig
from segcoord.deploy.graph import image_to_mask_graph, network_graph
from segcoord.evaluation.mean_iou import MeanIoU
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.cpu_autograd import DilatedDepthwiseConv2d, LeanReLU6
from segcoord.models.segmentation import SegmentationModel
from segcoord.training.loop import TrainingLoop
from segcoord.training.segmentation import SegmentationLoss

pytestmark = pytest.mark.gpu

CUDA = "--train.accelerator=cuda"
LOADED = ("--data.workers=2", "--train.ema_decay=0.9")


@pytest.fixture(scope="session")
def gpu_run(build_once: Callable, sample_voc: Path) -> Path:
    """The folder of a run of 8 steps on the GPU, in bf16 and with an EMA."""

    def build(folder: Path) -> None:
        assert run(train, "train.py", command(sample_voc, folder, CUDA, *LOADED)) == 0

    return build_once("gpu", build)


@pytest.fixture
def model() -> SegmentationModel:
    """On the CPU, with batch norms far from their start."""
    torch.manual_seed(0)
    return shaken(segcoord.create_model("mobilenetv2_ca_050", 7)).eval()


@contextmanager
def limited_memory() -> Iterator[None]:
    """Limit this process to a thousandth of the GPU's memory, tens of megabytes."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


# -- commands


def test_a_checkpoint_from_a_gpu_scores_the_same_on_both_devices(
    gpu_run: Path, tmp_path: Path
) -> None:
    checkpoint = gpu_run / "best.ckpt"
    state = read_checkpoint(gpu_run / "last.ckpt")
    assert all(t.device.type == "cpu" and t.isfinite().all() for t in state["training"].values())
    scores = {}
    for device in ("cuda", "cpu"):
        file = tmp_path / f"{device}.json"
        options = [f"--checkpoint={checkpoint}", f"--device={device}", f"--json={file}"]
        assert run(evaluate, "evaluate.py", options) == 0
        scores[device] = json.loads(file.read_text())["miou"]
    assert scores["cuda"] == pytest.approx(scores["cpu"], abs=0.002)


def test_a_report_with_views_and_a_comparison(gpu_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    checkpoint = gpu_run / "best.ckpt"
    options = [f"--checkpoint={checkpoint}", "--device=cuda", f"--report={tmp_path / 'r.html'}"]
    views = ["--scales", "0.75", "1.0", "--flip"]
    assert run(evaluate, "evaluate.py", [*options, f"--against={gpu_run}", *views]) == 0
    arguments = [str(gpu_run), str(gpu_run), "--device=cuda", "--resamples=10"]
    assert run(compare, "segcoord compare", arguments) == 0


def test_masks_of_both_devices_agree(gpu_run: Path, sample_voc: Path, tmp_path: Path) -> None:
    folder = images_of(sample_voc)
    for device in ("cuda", "cpu"):
        options = [f"--checkpoint={gpu_run / 'best.ckpt'}", f"--out={tmp_path / device}"]
        options += [f"--device={device}", "--probs", "--no-overlays"]
        assert run(predict, "segcoord predict", [str(folder), *options]) == 0
    equal = [
        (np.array(Image.open(path)) == np.array(Image.open(tmp_path / "cpu/masks" / path.name)))
        for path in sorted((tmp_path / "cuda/masks").iterdir())
    ]
    assert len(equal) == 22
    assert np.mean(equal) > 0.999


def test_a_run_on_a_gpu_is_exported(gpu_run: Path, tmp_path: Path) -> None:
    options = [f"--checkpoint={gpu_run / 'best.ckpt'}", "--format=torchscript"]
    options += ["--image-to-mask", f"--out={tmp_path / 'exported'}"]
    assert run(export, "segcoord export", options) == 0


@pytest.mark.parametrize("build", [network_graph, image_to_mask_graph])
def test_the_graph_of_a_model_on_a_gpu_is_that_of_the_cpu(
    build: Callable, model: SegmentationModel
) -> None:
    image = torch.randint(0, 256, (1, 75, 130, 3), dtype=torch.uint8)
    on_cpu = build(model)
    x = on_cpu.to_input(image)
    expected = on_cpu.module(x)
    output = build(model.cuda()).module(x)
    assert output.device.type == "cpu"
    torch.testing.assert_close(output, expected)


# -- training


def test_the_loss_curve_follows_that_of_the_cpu(
    sample_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 without TF32: means of 10 steps differ by 2 % at most, by rounding alone.

    From trained weights with frozen statistics; at the start of a training, batch norms turn
    rounding into several percent of the loss.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    unet = ["--model.decoder=unet", "--model.output_stride=32"]
    assert run(train, "train.py", command(sample_voc, tmp_path / "start", *unet, CUDA)) == 0
    curves = []
    for accelerator in ("cpu", "cuda"):
        folder = tmp_path / accelerator
        more = ["--train.max_steps=50", "--train.val_interval=50", "--train.precision=fp32"]
        more += [
            "--train.freeze_batch_norm=true",
            f"--init-from={tmp_path / 'start' / 'last.ckpt'}",
        ]
        more += [*unet, f"--train.accelerator={accelerator}"]
        assert run(train, "train.py", command(sample_voc, folder, *more)) == 0
        curves.append([float(row["loss"]) for row in rows(folder) if row["loss"]])
    assert len(curves[0]) == 5
    assert curves[1] == pytest.approx(curves[0], rel=0.02)


def test_a_resumed_run_equals_an_uninterrupted_one(
    sample_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit with deterministic kernels. The loss itself has none, its gradient does."""
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    try:
        assert run(train, "train.py", command(sample_voc, whole, CUDA, *LOADED)) == 0
        with monkeypatch.context() as patch:
            interrupt_at(5, patch)
            assert run(train, "train.py", command(sample_voc, parts, CUDA, *LOADED)) == 130
        assert run(train, "train.py", [f"--resume={parts}"]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    for name in ("last.ckpt", "best.ckpt"):
        mine, theirs = weights(parts, name), weights(whole, name)
        different = [k for k in theirs if not torch.equal(mine[k], theirs[k])]
        assert not different
    assert [r["step"] for r in rows(parts)] == [r["step"] for r in rows(whole)]


ALL_LOSSES = ("--train.ohem_threshold=0.7", "--train.dice_weight=0.5", "--train.aux_weight=0.4")


@pytest.mark.parametrize(
    "settings",
    [
        ("--train.precision=bf16", "--train.accumulate=2", "--train.clip_grad_norm=1", *ALL_LOSSES),
        ("--train.precision=fp16", "--train.clip_grad_norm=1", "--train.ema_decay=0.9"),
        ("--train.precision=fp16", "--train.optimizer=adamw", "--train.momentum=null"),
        ("--train.gradient_checkpointing=true", "--train.lovasz_weight=0.5", *ALL_LOSSES),
        ("--model.output_stride=8", "--model.decoder=deeplabv3plus", "--train.precision=fp32"),
        ("--model.encoder=mobilenext_ca_050", "--train.class_weights=median"),
    ],
    ids=["bf16", "fp16", "fp16-adamw", "checkpointing", "deeplabv3plus", "mobilenext"],
)
def test_settings_of_the_loop(sample_voc: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    assert run(train, "train.py", command(sample_voc, folder, CUDA, *settings)) == 0
    assert all(t.isfinite().all() for t in weights(folder).values())
    losses = [float(r["loss"]) for r in rows(folder) if r["loss"]]
    assert all(0 < loss < 20 for loss in losses)


def test_no_step_waits_for_the_gpu(
    sample_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch raises for a blocking copy or a read value, except where losses are read."""
    step, read_losses = TrainingLoop._step, TrainingLoop._read_losses
    steps = []

    def checked(self: TrainingLoop, batches: Iterator) -> None:
        if self.state.step < 2:  # cuDNN and cuBLAS initialize
            step(self, batches)
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        modules = [*self.task.module.modules()]
        assert not any(isinstance(m, (LeanReLU6, DilatedDepthwiseConv2d)) for m in modules)
        assert next(self.ema.model.parameters()).device.type == "cuda"
        steps.append(self.state.step)

    def read(self: TrainingLoop) -> None:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        read_losses(self)
        torch.cuda.set_sync_debug_mode(mode)

    monkeypatch.setattr(TrainingLoop, "_step", checked)
    monkeypatch.setattr(TrainingLoop, "_read_losses", read)
    more = ("--train.clip_grad_norm=1", "--train.accumulate=2", *LOADED, *ALL_LOSSES)
    assert run(train, "train.py", command(sample_voc, tmp_path / "run", CUDA, *more)) == 0
    assert steps == [3, 4, 5, 6, 7, 8]


def test_the_compiled_step_equals_the_eager_one() -> None:
    torch.manual_seed(0)
    model = segcoord.create_model("mobilenetv2_ca_050", 7, aspp_dropout=0.0)
    module = SegmentationLoss(model, TrainConfig(max_steps=1))
    module.to("cuda", torch.float64, memory_format=torch.channels_last)
    batch = {
        "image": torch.randint(0, 256, (4, 65, 65, 3), dtype=torch.uint8, device="cuda"),
        "mask": torch.randint(0, 7, (4, 65, 65), dtype=torch.uint8, device="cuda"),
    }
    results = []
    for step in (module, torch.compile(module, fullgraph=True)):
        module.zero_grad()
        loss = step(batch)
        loss.backward()
        norms = torch.stack([p.grad.norm() for p in module.parameters()])
        results.append((loss.detach(), norms.norm()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


# -- inference


def test_predictions_agree_with_the_cpu_in_both_precisions(model: SegmentationModel) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 201, 3), dtype=np.uint8)
    views = Views((0.75, 1.0), flip=True)
    expected = [segcoord.predict(model, image), segcoord.predict(model, image, views)]
    model.cuda()
    for half, share in ((False, 0.995), (True, 0.97)):
        model = model.half() if half else model
        actual = [segcoord.predict(model, image), segcoord.predict(model, image, views)]
        for a, b in zip(actual, expected):
            assert (a == b).mean() > share


def test_a_cuda_graph_captures_the_network(model: SegmentationModel) -> None:
    """Capture fails where the forward pass waits for the device."""
    model.to("cuda", memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 96, device="cuda").contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        for _ in range(3):
            expected = model.logits_at_stride(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = model.logits_at_stride(x)
        graph.replay()
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_pixels_on_a_gpu_are_counted_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, prediction = torch.randint(0, 19, (2, 200, 300), generator=generator).to(torch.uint8)
    truth[::7] = 255
    metrics = MeanIoU(19), MeanIoU(19).cuda()
    metrics[0].update(prediction, truth)
    metrics[1].update(prediction.cuda(), truth.cuda())
    assert torch.equal(metrics[0].confusion, metrics[1].confusion.cpu())


# -- out of memory


def test_training_without_memory_names_the_settings(
    sample_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = (CUDA, "--data.crop_size=[1024,1024]", "--train.batch_size=16")
    with limited_memory():
        assert run(train, "train.py", command(sample_voc, tmp_path / "run", *more)) == 1
    assert "Lower train.batch_size (now 16)" in capsys.readouterr().err


def test_prediction_without_memory_names_the_option(
    gpu_run: Path, sample_voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with limited_memory():
        options = [f"--checkpoint={gpu_run / 'best.ckpt'}", "--device=cuda", "--scales", "16"]
        assert run(evaluate, "evaluate.py", options) == 1
    assert "evaluate in tiles" in capsys.readouterr().err
    image = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(image)
    options = [f"--checkpoint={gpu_run / 'best.ckpt'}", f"--out={tmp_path / 'out'}"]
    options += ["--device=cuda", "--max-pixels=100000000"]
    with limited_memory():
        assert run(predict, "segcoord predict", [str(image), *options]) == 1
    assert "Lower --max-pixels" in " ".join(capsys.readouterr().out.split())

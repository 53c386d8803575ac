"""A training step on a GPU, without one: no value is read, no tensor is left on the CPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import segcoord
from segcoord.config.schema import TrainConfig
from segcoord.models.cpu_autograd import use_matmul_upsample
from segcoord.training.ema import Ema
from segcoord.training.fabric import training_fabric
from segcoord.training.segmentation import SegmentationLoss

K = 7
LOSSES = {"ohem_threshold": 0.7, "dice_weight": 0.5, "aux_weight": 0.4, "label_smoothing": 0.1}


def test_fabric_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    training_fabric(TrainConfig(max_steps=1, precision="bf16", accelerator="cpu"))
    assert not caplog.records


def module_of(**settings) -> SegmentationLoss:
    model = segcoord.create_model("mobilenetv2_ca_050", K)
    config = TrainConfig(max_steps=1, **settings)
    return SegmentationLoss(model, config, torch.ones(K)).train()


def batch_on(device: str) -> dict[str, Tensor]:
    image = torch.zeros(2, 48, 65, 3, dtype=torch.uint8, device=device)
    return {"image": image, "mask": torch.zeros(2, 48, 65, dtype=torch.uint8, device=device)}


def on_fake_gpu(module: nn.Module) -> None:
    """Replace parameters and buffers by fake CUDA tensors; `to` can't do this."""

    def fake(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")

    for m in module.modules():
        m._parameters = {
            k: p if p is None else nn.Parameter(fake(p)) for k, p in m._parameters.items()
        }
        m._buffers = {k: b if b is None else fake(b) for k, b in m._buffers.items()}


def test_a_step_reads_no_value_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values, so that reading one is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # has no meta device
    module = module_of(**LOSSES).to("meta", memory_format=torch.channels_last)
    ema = Ema(module.model, 0.99)
    module(batch_on("meta")).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    assert all(p.grad.device.type == "meta" for p in module.parameters())
    ema.update(module.model, 1)


def test_the_loss_on_a_gpu_uses_no_tensor_of_the_cpu_and_no_trick_for_it() -> None:
    """Fake CUDA tensors raise an error where devices are mixed or a value is read."""
    module = module_of(**LOSSES)
    with FakeTensorMode():
        on_fake_gpu(module)
        loss = module(batch_on("cuda"))
        logits = torch.empty(2, K, 4, 4, device="cuda", requires_grad=True)
    assert loss.device.type == "cuda"
    assert loss.requires_grad
    assert not use_matmul_upsample(logits)


def test_the_loss_compiles_without_a_graph_break() -> None:
    module = module_of(**LOSSES)
    module.to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    loss = torch.compile(module, fullgraph=True, backend="eager")(batch_on("cpu"))
    assert loss.isfinite()

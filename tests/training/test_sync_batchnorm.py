"""Synchronized batch norm on the CPU: two processes train as one, in double precision."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import forkserver
from timm.layers import BatchNormAct2d
from torch import nn

from segcoord import create_model
from segcoord.training.sync_batchnorm import with_sync_batchnorm


def train(rank: int, world_size: int, folder: Path) -> None:
    if world_size > 1:
        store = f"file://{folder / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = create_model("mobilenetv2_ca_050", 5, aspp_dropout=0.0).double().train()
    images = torch.randn(4, 3, 48, 64, dtype=torch.float64)
    if world_size > 1:
        model = with_sync_batchnorm(model, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    part = images.chunk(world_size)[rank]
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(part).square().mean()
        loss.backward()
        total = loss.detach().clone()
        if world_size > 1:  # as DistributedDataParallel averages gradients
            for tensor in (total, *(p.grad for p in model.parameters())):
                dist.all_reduce(tensor)
                tensor /= world_size
        optimizer.step()
        losses.append(total.item())
    if world_size > 1:
        dist.destroy_process_group()
    if rank == 0:
        torch.save({"losses": losses, **model.state_dict()}, folder / f"{world_size}.pt")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(5), BatchNormAct2d(5, act_layer=nn.ReLU)])
def test_bfloat16_is_normalized_as_by_batch_norm(norm: nn.Module) -> None:
    """With one process: statistics in float32, the result in the dtype of x."""
    x = torch.randn(4, 5, 21, 21).bfloat16()
    plain, ours = copy.deepcopy(norm).train(), copy.deepcopy(norm).train()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ours = with_sync_batchnorm(ours, x.device)
        with torch.autocast("cpu", torch.bfloat16):
            result, expected = ours(x), plain(x)
    finally:
        dist.destroy_process_group()
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected)
    for mine, theirs in zip(ours.state_dict().values(), plain.state_dict().values()):
        torch.testing.assert_close(mine, theirs)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    train(0, 1, tmp_path)
    other = forkserver().Process(target=train, args=(1, 2, tmp_path))
    other.start()
    try:
        train(0, 2, tmp_path)
    finally:
        other.join(60)
        other.kill()
    assert other.exitcode == 0
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    assert two.pop("losses") == pytest.approx(one.pop("losses"), rel=1e-7)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-8, msg=key)

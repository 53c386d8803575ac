"""CoordAtt against the authors' implementation, reproduced here."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

import segcoord.models.encoders  # noqa: F401
from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY

FORMATS = [torch.contiguous_format, torch.channels_last]


class AuthorsCoordAtt(nn.Module):
    """houqb/CoordAttention, mbv2_ca.py: adaptive pools, 1x1 convolutions, h-swish from ReLU6."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        mid = max(8, channels // reduction)
        self.pool_h = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_w = nn.AdaptiveAvgPool2d((1, None))
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, channels, 1)
        self.conv3 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], 2)
        y = self.bn1(self.conv1(y))
        y = y * (nn.functional.relu6(y + 3) / 6)
        rows, columns = torch.split(y, [h, w], 2)
        a_h = self.conv2(rows).sigmoid()
        a_w = self.conv3(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * a_w * a_h


class OneDirection(nn.Module):
    """The same with one pool: X averages rows, Y columns."""

    def __init__(self, channels: int, reduction: int, pool: tuple) -> None:
        super().__init__()
        mid = max(8, channels // reduction)
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(self.pool(x)))
        y = y * (nn.functional.relu6(y + 3) / 6)
        return x * self.conv2(y).sigmoid()


FORMS = {
    "ca": (CoordAtt, AuthorsCoordAtt),
    "ca_x": (CoordAttX, lambda c, r: OneDirection(c, r, (None, 1))),
    "ca_y": (CoordAttY, lambda c, r: OneDirection(c, r, (1, None))),
}


def pair(form: str, channels: int, reduction: int, training: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    ours_type, theirs_type = FORMS[form]
    theirs = theirs_type(channels, reduction)
    nn.init.normal_(theirs.bn1.running_mean)
    nn.init.uniform_(theirs.bn1.running_var, 0.5, 2)
    ours = ours_type(channels, reduction)
    ours.load_state_dict(theirs.state_dict())
    # Double precision makes rounding negligible.
    return ours.double().train(training), theirs.double().train(training)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("channels", "reduction", "size"),
    [(16, 32, (7, 11)), (96, 32, (5, 5)), (576, 32, (9, 4)), (64, 16, (1, 13)), (64, 24, (6, 1))],
)
@pytest.mark.parametrize("form", FORMS)
def test_outputs_and_gradients_equal_the_authors(
    form: str, channels: int, reduction: int, size: tuple[int, int], training: bool, memory_format
) -> None:
    ours, theirs = pair(form, channels, reduction, training)
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    mine = x.clone(memory_format=memory_format).requires_grad_()
    other = x.clone().requires_grad_()
    y, expected = ours(mine), theirs(other)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn_like(expected)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10, msg=name)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(name))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_keeps_shape_and_memory_format(memory_format, form: str) -> None:
    block = FORMS[form][0](32).eval()
    for size in ((1, 1), (1, 9), (8, 8), (33, 17)):
        x = torch.randn(2, 32, *size).contiguous(memory_format=memory_format)
        y = block(x)
        assert y.shape == x.shape
        assert y.is_contiguous(memory_format=memory_format)


def test_names_and_width_are_the_authors() -> None:
    names = list(CoordAtt(96).state_dict())
    assert names == list(AuthorsCoordAtt(96, 32).state_dict())
    assert CoordAtt(96).conv1.out_channels == 8  # the floor
    assert CoordAtt(960).conv1.out_channels == 30
    assert CoordAtt(960, reduction=16).conv1.out_channels == 60


def test_the_gate_depends_on_the_position() -> None:
    """Unlike a channel gate, it varies along rows and columns."""
    block = CoordAtt(16).eval()
    x = torch.rand(1, 16, 6, 8) + 0.5
    x[:, :, 2] += 4
    gate = block(x) / x
    assert gate.std(2).mean() > 1e-3
    x = torch.rand(1, 16, 6, 8) + 0.5
    x[:, :, :, 5] += 4
    assert (block(x) / x).std(3).mean() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_block_runs_at_other_sizes(form: str) -> None:
    """A pool fixed at the traced size would be wrong at every other size."""
    block = FORMS[form][0](16).eval()
    size = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    exported = torch.export.export(block, (torch.randn(1, 16, 24, 40),), dynamic_shapes=(size,))
    for height, width in ((25, 41), (31, 17), (48, 60)):
        x = torch.randn(1, 16, height, width)
        torch.testing.assert_close(exported.module()(x), block(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_and_gradgradcheck(form: str, memory_format, training: bool) -> None:
    """For the input and every parameter."""
    block, _ = pair(form, 8, 2, training)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    inputs = (x.requires_grad_(), *block.parameters())

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        names = [name for name, _ in block.named_parameters()]
        buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
        return torch.func.functional_call(block, dict(zip(names, parameters)) | buffers, (x,))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("grad", [True, False])
def test_the_input_and_the_incoming_gradient_are_not_changed(
    form: str, memory_format, grad
) -> None:
    block = FORMS[form][0](16)
    x = torch.randn(2, 16, 5, 6).contiguous(memory_format=memory_format)
    before = x.clone()
    with torch.set_grad_enabled(grad):
        y = block(x.requires_grad_(grad))
    if grad:
        weight = torch.randn_like(y)
        again = weight.clone()
        y.backward(weight)
        assert torch.equal(weight, again)
    assert torch.equal(x, before)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_inplace_applies_only_without_gradients(memory_format) -> None:
    x = torch.randn(2, 16, 5, 6).contiguous(memory_format=memory_format)
    block, other = CoordAtt(16, inplace=True).eval(), CoordAtt(16).eval()
    other.load_state_dict(block.state_dict())
    before = x.clone()
    expected = block(x)
    assert torch.equal(x, before)
    with torch.no_grad():
        torch.testing.assert_close(other(x), expected)
        found = block(x)
    torch.testing.assert_close(found, expected)
    assert found.data_ptr() == x.data_ptr()
    encoder = timm.create_model("mobilenetv2_ca_050")
    assert all(m.inplace for m in encoder.modules() if isinstance(m, CoordAtt))


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_input_is_the_only_large_tensor_saved_for_backward(memory_format) -> None:
    x = torch.randn(2, 32, 24, 24).contiguous(memory_format=memory_format).requires_grad_()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        CoordAtt(32)(x)
    assert kept.pop(x.untyped_storage().data_ptr()) == x.nbytes
    assert max(kept.values()) < x.nbytes / 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_frozen_block_and_a_frozen_input(form: str, memory_format) -> None:
    ours, theirs = pair(form, 16, 4, training=False)
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64).contiguous(memory_format=memory_format)
    ours(x).sum().backward()
    theirs(x).sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours.requires_grad_(False)(mine).sum().backward()
    theirs.requires_grad_(False)(other).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("cast", ["input", "nothing"])
def test_under_autocast(form: str, memory_format, cast: str) -> None:
    """Outputs and gradients equal the authors' within the rounding of bfloat16."""
    ours, theirs = (module.float() for module in pair(form, 32, 4, training=True))
    x = torch.randn(2, 32, 12, 10).contiguous(memory_format=memory_format)
    x = x.bfloat16() if cast == "input" else x
    results = []
    for block in (ours, theirs):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = block(leaf)
        y.float().square().sum().backward()
        results.append((y, leaf.grad, block.conv1.weight.grad))
    for mine, other in zip(*results):
        assert mine.dtype == other.dtype
        mine, other = mine.float(), other.float()
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.03 * other.abs().max().item())


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_compiles_in_one_graph_and_scripts(form: str, training: bool) -> None:
    block = FORMS[form][0](16).train(training)
    x = torch.randn(2, 16, 6, 7)
    others = {
        "compiled": torch.compile(copy.deepcopy(block), backend="aot_eager", fullgraph=True),
        "scripted": torch.jit.script(copy.deepcopy(block)),
    }
    leaf = x.clone().requires_grad_()
    y = block(leaf)
    y.square().sum().backward()
    for name, other in others.items():
        mine = x.clone().requires_grad_()
        found = other(mine)
        found.square().sum().backward()
        torch.testing.assert_close(found, y, msg=name)
        torch.testing.assert_close(mine.grad, leaf.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_traced_block_runs_at_other_sizes(form: str, memory_format) -> None:
    block = FORMS[form][0](16).eval()
    x = torch.randn(1, 16, 24, 40).contiguous(memory_format=memory_format)
    traced = torch.jit.trace(block, x)
    for height, width in ((25, 41), (7, 60)):
        x = torch.randn(2, 16, height, width).contiguous(memory_format=memory_format)
        torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("form", FORMS)
def test_the_evaluation_graph_has_no_concatenation(form: str) -> None:
    block = FORMS[form][0](16).eval()
    exported = torch.export.export(block, (torch.randn(1, 16, 8, 9),))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {"aten.mean.dim", "aten.conv2d.default"} <= called
    assert not any("cat" in name or "pool" in name for name in called)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_distributed_data_parallel(memory_format, tmp_path) -> None:
    """Gradients are all-reduced during the backward pass."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        block = CoordAtt(16)
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(block))
        x = torch.randn(2, 16, 5, 6).contiguous(memory_format=memory_format)
        block(x).square().sum().backward()
        wrapped(x).square().sum().backward()
        for p, q in zip(block.parameters(), wrapped.module.parameters()):
            torch.testing.assert_close(p.grad, q.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("channels", "reduction"), [(0, 32), (16, 0)])
def test_channels_and_reduction_below_1_are_errors(channels: int, reduction: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CoordAtt(channels, reduction)

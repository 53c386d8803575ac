"""What computes a network: PyTorch, or a runtime that reads an exported file.

A runtime is just another `net` of a `SegmentationModel`. Padding, normalisation, upsampling, views
and scores stay the same code, so that only the network's own arithmetic can differ.

onnxruntime runs ONNX files; openvino runs its own and ONNX files, openvino-bf16 the same with the
arithmetic of bfloat16, on processors that have it. Each takes PyTorch's number of threads.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    import openvino

RUNTIMES = {
    "torch": ("torchscript", "pt2"),
    "onnxruntime": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "openvino-bf16": ("openvino", "onnx"),
}
"""Runtime -> the formats that it reads; torch runs a training's checkpoint too."""

FORMATS = ("onnx", "openvino", "torchscript", "pt2")
EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "openvino": "openvino"}
"""Format or runtime -> the extra of segcoord that brings its packages."""

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf"),
}


def require_packages(extra: str, what: str) -> None:
    """Raises UserError, which says what to install, unless the packages of an extra are there."""
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'segcoord[{extra}]'")


def runtime_of(fmt: str, runtime: str | None, path: Path) -> str:
    """The runtime that reads a format: the one asked for, or its own.

    Raises:
        UserError: an unknown runtime, or one that doesn't read this format.
    """
    if runtime is None:
        return next(name for name, formats in RUNTIMES.items() if fmt in formats)
    check_runtime_name(runtime)
    if fmt not in RUNTIMES[runtime]:
        others = " or ".join(name for name, formats in RUNTIMES.items() if fmt in formats)
        wanted = " or ".join(RUNTIMES[runtime])
        raise UserError(
            f"--runtime {runtime}: {path} was exported as {fmt}, which {others} reads; "
            f"{runtime} takes a folder of: segcoord export --format {wanted}"
        )
    return runtime


def check_runtime_name(runtime: str) -> None:
    """Raises UserError for a runtime that there isn't."""
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime: found {runtime!r}, expected one of {', '.join(RUNTIMES)}")


def runtime_version(runtime: str) -> dict[str, str]:
    """The package of a runtime and its version; PyTorch's is told wherever versions are."""
    package = runtime.removesuffix("-bf16")
    return {} if package == "torch" else {package: version(package)}


def open_net(path: Path, fmt: str, runtime: str) -> nn.Module:
    """An exported file as a module of one tensor in, one tensor out, on the CPU.

    Args:
        path: of the file.
        fmt: its format.
        runtime: of RUNTIMES, which reads this format.

    Raises:
        UserError: the runtime's package is missing, or it can't read the file.
    """
    try:
        if runtime == "torch":
            return _script(path) if fmt == "torchscript" else ProgramNet(path)
        require_packages(EXTRAS[runtime.removesuffix("-bf16")], f"the runtime {runtime}")
        if runtime == "onnxruntime":
            return OnnxNet(path)
        return OpenVinoNet(path, runtime.partition("-")[2] or "f32")
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: {runtime} can't read it ({reason}); export it anew") from error
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):  # its types have no common one
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: {runtime} can't read it ({reason}); export it anew") from error


class OnnxNet(nn.Module):
    """An ONNX file by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; its warnings are of its own optimiser
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        (result,) = self.session.run(None, {self.input: x.contiguous().numpy(force=True)})
        return torch.from_numpy(result)


@cache
def openvino_core() -> openvino.Core:
    """The only one, and it is never taken down.

    OpenVINO's CPU plug-in brings a stack for signals (sigaltstack) and puts back what was there
    before when it goes. Of two that go in the order in which they came, the second one puts back
    the stack of the first, which is gone, and the next signal (of a loader's worker that ends, say)
    is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoNet(nn.Module):
    """An OpenVINO or ONNX file by OpenVINO.

    Args:
        path: of the .xml or .onnx file.
        precision: of what the file has as floats: "f32", where OpenVINO alone would take bfloat16
            on a processor that has it, or "bf16".

    Raises:
        UserError: "bf16" on a processor without it.
    """

    def __init__(self, path: Path, precision: str = "f32") -> None:
        super().__init__()
        core = openvino_core()
        if precision == "bf16":
            able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if "BF16" not in able:
                raise UserError(
                    f"--runtime openvino-bf16: this processor has {', '.join(able)} and no BF16; "
                    "take --runtime openvino"
                )
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = core.compile_model(str(path), "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def forward(self, x: Tensor) -> Tensor:
        result = self.request.infer([x.contiguous().numpy(force=True)], share_inputs=True)
        return torch.from_numpy(result[0])


def _script(path: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch develops torch.export instead
        return torch.jit.load(path, map_location="cpu").eval()


class ProgramNet(nn.Module):
    """A file of torch.export."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Its guards would refuse features of 1x1, which the graph computes right. It can't be told
        # of modes, as a part of this module would be.
        self.run = torch.export.load(path).module(check_guards=False).__call__

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

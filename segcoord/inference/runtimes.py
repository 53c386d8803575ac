"""Runtimes that compute a network: PyTorch, ONNX Runtime, OpenVINO.

Each is the `net` of a `SegmentationModel`. Padding, normalization, upsampling, views and scores are
the same code for all, so only the network's own arithmetic can differ.

onnxruntime runs ONNX files; openvino runs its own format and ONNX files; openvino-bf16 does so in
bfloat16, on processors that support it. All use PyTorch's number of threads.
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
"""Runtime -> the formats that it reads; torch also runs checkpoints."""

FORMATS = ("onnx", "openvino", "torchscript", "pt2")
EXTRAS = {"onnx": "onnx", "onnxruntime": "onnx", "openvino": "openvino"}
"""Format or runtime -> the extra of segcoord that installs its packages."""

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf"),
    "attend": ("pytorch_grad_cam",),
}


def require_packages(extra: str, what: str) -> None:
    """Raises UserError with the pip command if a package of an extra is not installed."""
    missing = [name for name in _PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'segcoord[{extra}]'")


def runtime_of(fmt: str, runtime: str | None, path: Path) -> str:
    """The runtime for a format: the given one, or the format's default.

    Raises:
        UserError: the runtime is unknown or doesn't read this format.
    """
    if runtime is None:
        return next(name for name, formats in RUNTIMES.items() if fmt in formats)
    check_runtime_name(runtime)
    if fmt not in RUNTIMES[runtime]:
        others = " or ".join(name for name, formats in RUNTIMES.items() if fmt in formats)
        formats = " or ".join(RUNTIMES[runtime])
        raise UserError(
            f"--runtime {runtime}: {path} was exported as {fmt}, which {others} reads; "
            f"{runtime} needs a folder written by segcoord export --format {formats}"
        )
    return runtime


def check_runtime_name(runtime: str) -> None:
    """Raises UserError for an unknown runtime."""
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime: found {runtime!r}, expected one of {', '.join(RUNTIMES)}")


def runtime_version(runtime: str) -> dict[str, str]:
    """The package of a runtime and its version; empty for PyTorch, which is always recorded."""
    package = runtime.removesuffix("-bf16")
    return {} if package == "torch" else {package: version(package)}


def open_net(path: Path, fmt: str, runtime: str) -> nn.Module:
    """Open an exported file as a module with one input and one output tensor, on the CPU.

    Args:
        path: of the file.
        fmt: its format.
        runtime: a key of `RUNTIMES` that reads this format.

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
    except Exception as error:
        known = isinstance(error, (RuntimeError, ValueError, OSError))
        # The exceptions of ONNX Runtime have no common base class.
        if not known and not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: {runtime} can't read it ({reason}); export it again") from error


class OnnxNet(nn.Module):
    """An ONNX file run by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the warnings are about its own optimizer
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {self.input: x.contiguous().numpy(force=True)})
        return torch.from_numpy(logits)


@cache
def openvino_core() -> openvino.Core:
    """The process's only OpenVINO core, which is never destroyed.

    OpenVINO's CPU plug-in installs a signal stack (sigaltstack) and restores the previous one when
    it is destroyed. If two plug-ins are destroyed in the order of their creation, the second
    restores the freed stack of the first, and the next signal, for example SIGCHLD of a data
    loader's worker, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVinoNet(nn.Module):
    """An OpenVINO or ONNX file run by OpenVINO.

    Args:
        path: of the .xml or .onnx file.
        precision: of the file's floating point operations: "f32" (OpenVINO's default is bfloat16 on
            processors that support it) or "bf16".

    Raises:
        UserError: "bf16" is not supported by the processor.
    """

    def __init__(self, path: Path, precision: str = "f32") -> None:
        super().__init__()
        core = openvino_core()
        if precision == "bf16":
            capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if "BF16" not in capabilities:
                raise UserError(
                    "--runtime openvino-bf16: this processor supports "
                    f"{', '.join(capabilities)} and no BF16; use --runtime openvino"
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
        outputs = self.request.infer([x.contiguous().numpy(force=True)], share_inputs=True)
        return torch.from_numpy(outputs[0])


def _script(path: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated
        return torch.jit.load(path, map_location="cpu").eval()


class ProgramNet(nn.Module):
    """A program saved by torch.export."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        # The guards would reject 1x1 features, which the graph computes correctly. The program is
        # kept as a function, because as a submodule it would fail in `eval()`.
        self.run = torch.export.load(path).module(check_guards=False).__call__

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

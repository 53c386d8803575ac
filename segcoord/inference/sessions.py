"""ONNX Runtime and OpenVINO on NumPy arrays, and the table of runtimes. Imports no torch.

onnxruntime runs ONNX files; openvino runs its own format and ONNX files; openvino-bf16 does so in
bfloat16, on processors that support it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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


class OnnxSession:
    """An ONNX file with one input and one output, run by ONNX Runtime.

    Args:
        path: of the file.
        threads: of the processor.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; the warnings are about its own optimizer
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, x: np.ndarray) -> np.ndarray:
        (output,) = self.session.run(None, {self.input: x})
        return output


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


class OpenVinoSession:
    """An OpenVINO or ONNX file with one input and one output, run by OpenVINO.

    Args:
        path: of the .xml or .onnx file.
        threads: of the processor.
        precision: of the file's floating point operations: "f32" (OpenVINO's default is bfloat16 on
            processors that support it) or "bf16".

    Raises:
        UserError: "bf16" is not supported by the processor.
    """

    def __init__(self, path: Path, threads: int, precision: str = "f32") -> None:
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
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = core.compile_model(str(path), "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.request.infer([x], share_inputs=True)[0]


Session = OnnxSession | OpenVinoSession


def open_session(path: Path, runtime: str, threads: int) -> Session:
    """Open a file in ONNX Runtime or OpenVINO.

    Raises:
        UserError: the runtime's package is missing, or it can't read the file.
    """
    require_packages(EXTRAS[runtime.removesuffix("-bf16")], f"the runtime {runtime}")
    with explain_unreadable(path, runtime):
        if runtime == "onnxruntime":
            return OnnxSession(path, threads)
        return OpenVinoSession(path, threads, runtime.partition("-")[2] or "f32")


@contextmanager
def explain_unreadable(path: Path, runtime: str) -> Iterator[None]:
    """Re-raise the error of a runtime that opens a file as a UserError."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, (RuntimeError, ValueError, OSError))
        # The exceptions of ONNX Runtime have no common base class.
        if not known and not type(error).__module__.startswith("onnxruntime"):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: {runtime} can't read it ({reason}); export it again") from error

"""Runtimes as modules: the `net` of a `SegmentationModel` in PyTorch, ONNX Runtime or OpenVINO.

Padding, normalization, upsampling, views and scores are the same code for all, so only the
network's own arithmetic can differ. All use PyTorch's number of threads.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from segcoord.inference.sessions import Session, explain_unreadable, open_session


def open_net(path: Path, fmt: str, runtime: str) -> nn.Module:
    """Open an exported file as a module with one input and one output tensor, on the CPU.

    Args:
        path: of the file.
        fmt: its format.
        runtime: a key of `RUNTIMES` that reads this format.

    Raises:
        UserError: the runtime's package is missing, or it can't read the file.
    """
    if runtime != "torch":
        return SessionNet(open_session(path, runtime, torch.get_num_threads()))
    with explain_unreadable(path, runtime):
        return _script(path) if fmt == "torchscript" else ProgramNet(path)


class SessionNet(nn.Module):
    """A session of ONNX Runtime or OpenVINO."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session(x.contiguous().numpy(force=True)))


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

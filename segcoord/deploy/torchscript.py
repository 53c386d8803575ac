"""Writes TorchScript files by tracing; sizes stay symbolic."""

import io
import json
import warnings
from pathlib import Path

import torch

from segcoord.deploy.graph import Graph


@torch.no_grad()
def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON in the extra file `segcoord.json`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        traced = torch.jit.trace(graph.module, graph.example)
        content = io.BytesIO()  # torch.jit.save to a path aborts the process on a full disk
        torch.jit.save(traced, content, _extra_files={"segcoord.json": json.dumps(metadata)})
    path.write_bytes(content.getvalue())

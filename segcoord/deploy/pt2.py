"""Writes torch.export files, the input of PyTorch's compilers and of ExecuTorch."""

import io
import json
from pathlib import Path

import torch

from segcoord.deploy.graph import Graph


def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON in the extra file `segcoord.json`."""
    program = torch.export.export(
        graph.module, (graph.example,), dynamic_shapes=(graph.dynamic_shape,), strict=False
    )
    content = io.BytesIO()  # torch.export.save to a path aborts the process on a full disk
    torch.export.save(program, content, extra_files={"segcoord.json": json.dumps(metadata)})
    path.write_bytes(content.getvalue())

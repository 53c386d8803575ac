"""Files of torch.export: the graph that PyTorch's own compilers and ExecuTorch start from."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from segcoord.deploy.graph import Graph


def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON in the extra file `segcoord.json`."""
    program = torch.export.export(
        graph.module, (graph.example,), dynamic_shapes=(graph.dynamic,), strict=False
    )
    content = io.BytesIO()  # its own writer to a file ends the process where the disk is full
    torch.export.save(program, content, extra_files={"segcoord.json": json.dumps(metadata)})
    path.write_bytes(content.getvalue())

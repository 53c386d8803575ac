"""What `segcoord share` does: a checkpoint as a folder of safetensors and JSON, or on the hub."""

from __future__ import annotations

from pathlib import Path

from segcoord.checkpoints import read_segmentation, rebuild
from segcoord.console import console
from segcoord.errors import UserError


def share(checkpoint: str, out: str | None, push: str | None, private: bool) -> int:
    """Writes the folder `out`, uploads to the repository `push`, or both."""
    if out is None and push is None:
        raise UserError("expected --out DIR, --push USER/NAME or both")
    if private and push is None:
        raise UserError("--private: is for a repository on the hub; give --push USER/NAME too")
    content = read_segmentation(checkpoint)
    model = rebuild(content, checkpoint)
    best = content.get("progress", {}).get("best", -1.0)
    metrics = {"mIoU, best validation": best} if best >= 0 else {}
    if out is not None:
        model.save_pretrained(Path(out), metrics=metrics)
        console.print(f"{out}: complete its README.md before you pass it on")
    if push is not None:
        address = model.push_to_hub(push, private=private or None, metrics=metrics)
        console.print(address)
    return 0

"""TODO."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


PACKAGES = (
    "segcoord",
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "albumentations",
    "opencv-python-headless",
    "lightning-fabric",
    "numpy",
)


def origin() -> dict:
    """What a result came from: commit, versions, command, date."""
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    return {
        "commit": _commit(),
        "versions": versions,
        "command": shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def describe_machine(device: torch.device, processes: int) -> dict:
    import torch  # as late as here, for `segcoord runs` does without

    cpu = _cpu()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "devices": [name if device.type in ("cpu", "cuda") else device.type] * processes,
    }


def _cpu() -> str:
    """The processor's name."""
    table = Path("/proc/cpuinfo")  # what `platform` knows of Linux is only the architecture
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # another build of OpenCV, or a source tree that isn't installed
        return None


def _commit() -> str | None:
    """The commit of a source checkout, with "+" where files differ; None for an installed wheel."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed else "")

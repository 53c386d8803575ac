"""Where a result comes from: commit, package versions, command line, date and machine."""

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
    """Commit, package versions, command line and date (UTC), as plain types for JSON."""
    versions = {"python": platform.python_version()} | {
        name: package_version(name) for name in PACKAGES
    }
    return {
        "commit": _commit(),
        "versions": versions,
        "command": shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def describe_machine(device: torch.device, processes: int) -> dict:
    """CPU, devices and thread count, as plain types for JSON.

    Args:
        device: device of this process.
        processes: number of processes, each with one device of that type.
    """
    import torch  # late, to keep `segcoord runs` fast

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
    """Model name of the CPU."""
    cpuinfo = Path("/proc/cpuinfo")  # on Linux `platform` knows only the architecture
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # another build of OpenCV, or a source tree not installed
        return None


def _commit() -> str | None:
    """Short commit hash of a source checkout, with "+" if modified; None for an installed wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed else "")

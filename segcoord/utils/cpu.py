"""How many threads or processes are worth starting."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use; a container or taskset may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""Number of CPU cores."""

import os


def available_cores() -> int:
    """Number of cores available to this process; a container or taskset may restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

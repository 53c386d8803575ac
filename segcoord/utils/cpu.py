"""Number of CPU cores, and how threads wait on them."""

import os


def available_cores() -> int:
    """Number of cores available to this process; a container or taskset may restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_busy_waiting() -> None:
    """Let OpenMP's threads sleep soon after their work; call before PyTorch is imported.

    By default they wait in a loop: up to 300,000 rounds in GNU OpenMP, which PyTorch uses on Linux,
    and 200 ms in LLVM's. Two processes on the same cores then take the cores from each other's
    working threads. Does nothing if the user has set one of the variables.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}.isdisjoint(os.environ):
        os.environ |= {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}

"""The C allocator's settings for tensors on the CPU, for our commands only.

glibc hands every large tensor fresh pages and gives them back when it dies; on small machines the
page faults cost more than the arithmetic. Keeping the memory makes training and evaluation on a CPU
up to three times as fast. The price is that the process never shrinks, which is why importing
segcoord as a library does not do this.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> None:
    """Call before the first tensor. Does nothing where the C library isn't glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_TOP_PAD, 64 << 20)
    libc.mallopt(_M_ARENA_MAX, 1)

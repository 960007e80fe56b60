"""What commands that compute for long ask of the C library's memory."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt(3)


def keep_freed_memory() -> None:
    """Keep memory that was freed, for what is allocated next; for a process of our own, not for a library's host.

    glibc hands every large block back to the kernel, which has to clear it and map it anew at the next operation:
    half of a training step on a CPU. Elsewhere this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has none by that name
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

"""What processes that compute for long ask of those who keep memory for them: the C library and oneDNN."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's mallopt(3)
KERNEL_CACHES = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "512",  # kernels, of the process; fewer would be compiled again for short texts
    "LRU_CACHE_CAPACITY": "1",  # prepared convolutions with their buffers, of each thread; preparing takes no time
}


def keep_freed_memory() -> None:
    """Keep memory that was freed, for what is allocated next; for a process of our own, not for a library's host.

    glibc hands every large block back to the kernel, which has to clear it and map it anew at the next operation:
    half of a training step on a CPU. It also keeps what one thread freed from the others. Call it before threads start;
    elsewhere than with glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows has none by that name
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_ARENA_MAX, 1)


def reserve_memory(nbytes: int) -> None:
    """Take memory from the kernel now that is needed later, where freed memory is kept: then nothing grows.

    >>> reserve_memory(2**20)
    """
    try:
        libc = ctypes.CDLL(None)
        malloc, free = libc.malloc, libc.free
    except (AttributeError, OSError, TypeError):
        return
    malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    block = malloc(nbytes)
    if block:
        ctypes.memset(block, 1, nbytes)  # the kernel gives a page when it is written
        free(block)


def bound_kernel_caches() -> None:
    """Let oneDNN keep fewer of the kernels that it compiles for every shape: 1024 of each, its own bound, are a GiB.

    They also lie between what is freed, which then cannot be used for anything large. Works until the process computes
    for the first time. What the environment already says stays.

    >>> bound_kernel_caches()
    """
    for name, capacity in KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)

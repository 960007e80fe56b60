from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from onepeace.memory import KERNEL_CACHES

FAULTS = """
import resource, sys, torch
from onepeace.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # the heap grows until blocks of this size fit side by side
    torch.ones(2**24)
before = faults()
for _ in range(5):
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_that_was_freed_is_not_asked_of_the_kernel_again() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True).stdout)
        for mode in ("keep", "plain")
    }
    assert faults["keep"] * 10 < faults["plain"]


SHAPES = """
import ctypes, torch, onepeace
class Info(ctypes.Structure):  # mallinfo2(3)
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks mapped m f used free top".split()]
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
torch.set_num_threads(1)
model = onepeace.load_embedder("onepeace-tiny", dtype="bfloat16")
held = []
for count in range(1, 57):
    text = model.reader.windows("text", "dog " * (count % 8 + 1))[0]
    model.embed_windows("text", [text] * count)
    info = mallinfo()
    held.append(info.used + info.mapped)
print((held[-1] - held[0]) / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc 2.33 or later what is in use")
def test_the_kernels_of_many_batch_sizes_take_little_memory() -> None:
    plain = {name: value for name, value in os.environ.items() if name not in KERNEL_CACHES}
    unbounded = plain | dict.fromkeys(KERNEL_CACHES, "1024")  # oneDNN's own bound
    growth = [
        float(subprocess.run([sys.executable, "-c", SHAPES], check=True, capture_output=True, env=env).stdout)
        for env in (plain, unbounded)
    ]
    assert growth[0] * 1.5 < growth[1], growth

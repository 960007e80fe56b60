from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
